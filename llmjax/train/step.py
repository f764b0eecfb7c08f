"""One optimizer update, and one evaluation: pure functions, jitted once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llmjax.parallel.axes import partition_spec
from llmjax.tasks.task import Batch, Loss, Metrics
from llmjax.train.state import State

Scalars = dict[str, jax.Array]
Step = Callable[[State, Batch], tuple[State, tuple[Metrics, Scalars]]]


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    seed: int,
    microbatches: int,
    norms_every: int,
) -> Step:
    """(state, batch) -> (state, (metrics, scalars)); not yet jitted.

    The gradient is that of sum / count over the whole batch, however many microbatches
    it is computed in. Scalars: `grad_norm`, and every `norms_every` updates (else 0)
    `grad_norm/G` and `param_norm/G` per group of weights G.
    """

    def gradient(state, batch, key):
        def scalar(params):
            total, count, metrics, extra = loss(
                params, state.frozen, state.extra, batch, key
            )
            return total, (count, metrics, extra)

        (_, aux), grads = jax.value_and_grad(scalar, has_aux=True)(state.params)
        return grads, aux

    def step(state: State, batch: Batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if microbatches == 1:
            grads, (count, metrics, extra) = gradient(state, batch, key)
        else:
            grads, (count, metrics, extra) = _accumulate(
                gradient, state, batch, key, microbatches
            )
        scale = 1 / jnp.maximum(count, 1)
        grads = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        scalars = {"grad_norm": optax.tree.norm(grads)}
        due = (state.step + 1) % norms_every == 0
        scalars |= jax.lax.cond(due, _norms, _no_norms, grads, state.params)
        state = State(state.step + 1, params, state.frozen, extra, opt_state)
        return state, (metrics, scalars)

    return step


def _accumulate(gradient, state, batch, key, microbatches):
    """Sums of gradients, counts and metrics over a scan of microbatches, in float32.

    Rows are dealt out in turn (row r to microbatch r % k), so that each microbatch
    lies on all devices as the batch does.
    """

    def deal(x):
        x = jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)
        names = (None, "act_B", "act_T")[: x.ndim]
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return x
        spec = partition_spec(names + (None,) * (x.ndim - len(names)), "microbatch")
        return jax.lax.with_sharding_constraint(x, spec)

    def body(carry, inputs):
        batch, index = inputs
        total, extra = carry
        state_now = state.replace(extra=extra)
        grads, (count, metrics, extra) = gradient(
            state_now, batch, jax.random.fold_in(key, index)
        )
        total = jax.tree.map(jnp.add, total, (grads, count, metrics))
        return (total, extra), None

    batches = jax.tree.map(deal, dict(batch))
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(gradient, state, first, key)
    sums = (shapes[0], shapes[1][0], shapes[1][1])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), sums)
    (total, extra), _ = jax.lax.scan(
        body, (zeros, state.extra), (batches, jnp.arange(microbatches))
    )
    grads, count, metrics = total
    return grads, (count, metrics, extra)


def _norms(grads: Any, params: Any) -> Scalars:
    out: dict[str, list[jax.Array]] = {}
    for kind, tree in (("grad_norm", grads), ("param_norm", params)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{kind}/{_group([k.key for k in path])}"
            out.setdefault(name, []).append(leaf)
    return {name: optax.tree.norm(leaves) for name, leaves in out.items()}


def _no_norms(grads: Any, params: Any) -> Scalars:
    shapes = jax.eval_shape(_norms, grads, params)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _group(path: list[str]) -> str:
    """transformer/stack/group_0/layer_1/mlp/up/kernel -> stack/mlp."""
    parts = [
        p for p in path if p != "transformer" and not p.startswith(("group_", "layer_"))
    ]
    return "/".join(parts[:2] if parts[0] in ("stack", "encoder") else parts[:1])


def make_evaluation(loss: Loss) -> Callable[[Any, Any, Any, Batch], Metrics]:
    """(params, frozen, extra, batch) -> metrics as sums and counts, without dropout."""

    def evaluate(params, frozen, extra, batch):
        return loss(params, frozen, extra, batch, None)[2]

    return evaluate
