"""Losses that ask for agreement: of two dropout masks, of near inputs and weights."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import SMART, RDrop
from llmjax.tasks.craft.perturbation import Deltas, Lookup, divided, perturbed, seen
from llmjax.tasks.task import Batch, Composed, Loss

# (outputs, outputs, batch) -> the summed divergence, both directions together
Divergence = Callable[[Any, Any, Batch], jax.Array]

PROXIMAL = "proximal"  # in `State.extra`
NOISE = 2**32 - 3  # place of the noise's draw among a microbatch's keys


def r_drop(loss: Composed, config: RDrop, divergence: Divergence) -> Loss:
    """The mean loss of two dropout masks, and their mean divergence.

    Metrics: the task's own of the first mask, and `divergence`.
    """

    def call(params, frozen, extra, batch, rng):
        if rng is None:
            return loss(params, frozen, extra, batch, rng)
        keys = jax.random.split(rng)
        one, other = (loss.outputs(params, frozen, batch, key) for key in keys)
        total, count, metrics = loss.score(one, batch, training=True)
        total += loss.score(other, batch, training=True)[0]
        apart = divergence(one, other, batch) / 2
        metrics = {**metrics, "divergence": (apart, count)}
        return total / 2 + config.weight * apart, count, metrics, extra

    return call


@flax.struct.dataclass
class Average:
    """Averaged weights, in `State.extra`.

    Attributes:
      weights: those that are trained, float32; 0 before the first step.
      microbatches: int32, how many have read them.
    """

    weights: Any
    microbatches: Any

    def after(self, params: Any, momentum: float, per_step: int) -> "Average":
        """With the weights of a new step taken in, once for all its microbatches; at
        first they are the average."""
        begins = self.microbatches % per_step == 0
        kept = jnp.where(self.microbatches == 0, 0.0, momentum)

        def one(average: jax.Array, weight: jax.Array) -> jax.Array:
            new = kept * average + (1 - kept) * weight.astype(average.dtype)
            return jnp.where(begins, new, average)

        weights = jax.tree.map(one, self.weights, jax.lax.stop_gradient(params))
        return Average(weights, self.microbatches + 1)


def smart(
    loss: Composed, config: SMART, divergence: Divergence, microbatches: int
) -> Loss:
    """The plain loss, the largest divergence near a text's vectors, and the divergence
    from averaged weights; all with one dropout mask.

    Metrics: the task's own, `smoothness` and `proximity`.

    Args:
      loss, divergence: of the task.
      config: the weights of both.
      microbatches: of a step, which read one average.
    """

    def call(params, frozen, extra, batch, rng):
        if rng is None:
            return loss(params, frozen, extra, batch, rng)
        outputs, lookups = seen(loss, params, frozen, batch, rng)
        total, count, metrics = loss.score(outputs, batch, training=True)
        if config.weight:
            held = jax.lax.stop_gradient((params, outputs))

            def apart(deltas: Deltas) -> jax.Array:
                moved = perturbed(loss, held[0], frozen, batch, rng, deltas)
                return divergence(moved, held[1], batch)

            key = jax.random.fold_in(rng, NOISE)
            deltas = furthest(config, lookups, apart, key)
            moved = perturbed(loss, params, frozen, batch, rng, deltas)
            smoothness = divergence(moved, outputs, batch)
            total += config.weight * smoothness
            metrics = {**metrics, "smoothness": (smoothness, count)}
        if config.proximal:
            average = extra[PROXIMAL].after(params, config.momentum, microbatches)
            types = jax.tree.map(
                lambda p, a: a.astype(p.dtype), params, average.weights
            )
            before = loss.outputs(types, frozen, batch, rng)
            proximity = divergence(outputs, jax.lax.stop_gradient(before), batch)
            total += config.proximal * proximity
            metrics = {**metrics, "proximity": (proximity, count)}
            extra = {**extra, PROXIMAL: average}
        return total, count, metrics, extra

    return call


def furthest(
    config: SMART,
    lookups: list[Lookup],
    apart: Callable[[Deltas], jax.Array],
    key: jax.Array,
) -> Deltas:
    """Noise after projected gradient ascent: each entry within the radius (their
    algorithm 1).

    A step goes along the gradient over its largest entry for the token, as in the
    authors' code.
    """
    keys = jax.random.split(key, len(lookups))
    deltas = tuple(
        lookup.real(config.noise * jax.random.normal(k, lookup.x_BTM.shape))
        for k, lookup in zip(keys, lookups, strict=True)
    )

    def one(lookup: Lookup, grad: jax.Array, delta: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(grad), axis=-1, keepdims=True)
        moved = delta + config.step_size * divided(grad, largest)
        return lookup.real(jnp.clip(moved, -config.radius, config.radius))

    for _ in range(config.steps):
        deltas = tuple(map(one, lookups, jax.grad(apart)(deltas), deltas))
    return jax.lax.stop_gradient(deltas)
