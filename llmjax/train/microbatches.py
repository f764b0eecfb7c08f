"""A batch in microbatches: sums over a scan of microbatches, in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llmjax.parallel.axes import partition_spec
from llmjax.tasks.task import Batch, Loss
from llmjax.train.gradient import Gradient
from llmjax.train.placement import Placement
from llmjax.train.state import State


def accumulate(
    gradient: Gradient,
    params: Any,
    frozen: Any,
    extra: Any,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
    placement: Placement,
) -> Any:
    """Sums of what `gradient` gives of each microbatch: (grads, count, metrics, extra).

    The gradients' sum is cut over devices as `placement` says from the first one on;
    `extra` passes from one to the next.
    """

    def body(carry, inputs):
        batch, index = inputs
        total, extra = carry
        *sums, extra = gradient(
            params, frozen, extra, batch, jax.random.fold_in(key, index)
        )
        grads, *rest = jax.tree.map(jnp.add, total, sums)
        return ([placement.as_gradients(grads), *rest], extra), None

    batches = deal(batch, microbatches)
    first = jax.tree.map(lambda x: x[0], batches)
    *sums, _ = jax.eval_shape(gradient, params, frozen, extra, first, key)
    grads, *rest = jax.tree.map(
        lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), sums
    )
    zeros = [placement.as_gradients(grads), *rest]
    (total, extra), _ = jax.lax.scan(
        body, (zeros, extra), (batches, jnp.arange(microbatches))
    )
    return *total, extra


def deal(batch: Batch, microbatches: int) -> Any:
    """[B, ...] of a batch as [microbatches, b, ...].

    Rows are dealt out in turn (row r to microbatch r % k), so that each microbatch
    lies on all devices as the batch does.
    """

    def one(x):
        x = jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)
        names = (None, "act_B", "act_T")[: x.ndim]
        if jax.sharding.get_abstract_mesh().empty:
            return x
        spec = partition_spec(names + (None,) * (x.ndim - len(names)), "microbatch")
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree.map(one, dict(batch))


def mean_loss(
    loss: Loss, state: State, batch: Batch, key: jax.Array, microbatches: int
) -> Callable[[Any], jax.Array]:
    """The batch's loss per count as a function of the weights, to differentiate twice.

    Each microbatch is computed again backward, so that the activations of one are held
    at a time. Weights that an `optax.partition` masked are taken from `state`.
    """
    masked = optax.MaskedNode

    def objective(params):
        weights = jax.tree.map(
            lambda p, own: own if isinstance(p, masked) else p,
            params,
            state.params,
            is_leaf=lambda x: isinstance(x, masked),
        )

        @jax.checkpoint
        def body(carry, inputs):
            rows, index = inputs
            rng = key if microbatches == 1 else jax.random.fold_in(key, index)
            total, count, *_ = loss(weights, state.frozen, state.extra, rows, rng)
            return (carry[0] + total, carry[1] + count), None

        zero = jnp.zeros(())
        inputs = deal(batch, microbatches), jnp.arange(microbatches)
        (total, count), _ = jax.lax.scan(body, (zero, zero), inputs)
        return total / jnp.maximum(count, 1)

    return objective
