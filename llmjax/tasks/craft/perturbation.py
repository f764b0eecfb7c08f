"""Perturbations of the token vectors: where they are added, and their lengths.

They are added to what `Embedder.embeddings` gives, before positions and norms, by an
interceptor around the whole forward pass: no model knows of them. A packed row's texts
are perturbed each by itself, padding never.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.embedder import Embedder
from llmjax.tasks.task import Batch, Composed, Params

Deltas = tuple[jax.Array, ...]  # [B, T, M] of each lookup of a forward pass


class Lookup(NamedTuple):
    """The token vectors of one lookup of a forward pass, and the texts of its rows.

    Attributes:
      x_BTM: the vectors.
      segments_BT: as in a batch, 0 at padding; None: each row is one text.
    """

    x_BTM: jax.Array
    segments_BT: jax.Array | None

    def real(self, x_BTM: jax.Array) -> jax.Array:
        """`x_BTM` with 0 at padding."""
        if self.segments_BT is None:
            return x_BTM
        return jnp.where(self.segments_BT[..., None] > 0, x_BTM, 0)

    def length(self, x_BTM: jax.Array) -> jax.Array:
        """The L2 length of each token's whole text's entries, [B, T, 1]."""
        squares_BT = jnp.sum(jnp.square(self.real(x_BTM)), axis=-1)
        if self.segments_BT is None:
            total_BT = jnp.sum(squares_BT, axis=1, keepdims=True)
        else:
            total_BT = jax.vmap(_sum_of_segment)(squares_BT, self.segments_BT)
        return jnp.sqrt(total_BT)[..., None]

    def size(self) -> jax.Array:
        """The number of entries of each token's text, [B, T, 1]."""
        return jnp.square(self.length(jnp.ones_like(self.x_BTM)))


def _sum_of_segment(values_T: jax.Array, segments_T: jax.Array) -> jax.Array:
    T = len(values_T)  # a row has at most as many texts
    return jax.ops.segment_sum(values_T, segments_T, num_segments=T + 1)[segments_T]


def seen(
    loss: Composed, params: Params, frozen: Any, batch: Batch, rng: Any
) -> tuple[Any, list[Lookup]]:
    """The outputs of a forward pass, and its lookups in their order.

    Raises:
      ValueError: the model looks up no token vectors.
    """
    lookups: list[Lookup] = []

    def note(_: int, x_BTM: jax.Array, inner: Batch, prefix: str) -> jax.Array:
        lookups.append(Lookup(x_BTM, inner.get(f"{prefix}segment_ids")))
        return x_BTM

    with _changed(note):
        outputs = loss.outputs(params, frozen, batch, rng)
    if not lookups:
        raise ValueError(
            "craft.loss perturbs the vectors of tokens, and this model looks up none "
            "by llmjax.models.embedder.Embedder; set craft.loss.kind='plain'"
        )
    return outputs, lookups


def perturbed(
    loss: Composed, params: Params, frozen: Any, batch: Batch, rng: Any, deltas: Deltas
) -> Any:
    """The outputs of a forward pass whose k-th lookup has `deltas[k]` added."""

    def add(k: int, x_BTM: jax.Array, inner: Batch, prefix: str) -> jax.Array:
        return x_BTM + deltas[k]

    with _changed(add):
        return loss.outputs(params, frozen, batch, rng)


def _changed(change: Callable[..., jax.Array]) -> Any:
    """A context in which the k-th lookup gives `change(k, vectors, batch, prefix)`."""
    number = itertools.count()

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        own = isinstance(context.module, Embedder)
        if not own or context.method_name != "embeddings":
            return out
        batch, *rest = args
        prefix = rest[0] if rest else kwargs.get("prefix", "")
        return change(next(number), out, batch, prefix)

    return nn.intercept_methods(intercept)


def step(
    lookups: list[Lookup], grads: Deltas, deltas: Deltas, size: float, radius: float
) -> Deltas:
    """`deltas` after a step up the gradient, no longer than `radius` for any text."""

    def one(lookup: Lookup, grad: jax.Array, delta: jax.Array) -> jax.Array:
        delta = delta + lookup.real(size * divided(grad, lookup.length(grad)))
        length = lookup.length(delta)
        return delta * jnp.minimum(1.0, divided(jnp.float32(radius), length, 1.0))

    return tuple(map(one, lookups, grads, deltas))


def divided(x: jax.Array, y: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """x / y, and `otherwise` where y is 0."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1.0), otherwise)
