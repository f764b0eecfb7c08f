"""One optimizer update, and one evaluation: pure functions, jitted once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llmjax.config import LayoutConfig
from llmjax.models.forward import variables
from llmjax.tasks.task import Batch, Loss, Metrics
from llmjax.train.gradient import GradientEstimator, value_and_grad
from llmjax.train.loss_scale import Accept, accept_all
from llmjax.train.microbatches import accumulate, mean_loss
from llmjax.train.optimizers.rounding import round_tree
from llmjax.train.placement import Placement
from llmjax.train.state import State, float32

Scalars = dict[str, jax.Array]
Step = Callable[[State, Batch], tuple[State, tuple[Metrics, Scalars]]]

ROUNDING = 2**32 - 1  # its noise's place among the keys of a step's microbatches
ANYWHERE = Placement()


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    layout: LayoutConfig,
    *,
    seed: int,
    placement: Placement = ANYWHERE,
    gradient: GradientEstimator = value_and_grad,
    accept: Accept = accept_all,
) -> Step:
    """(state, batch) -> (state, (metrics, scalars)); not yet jitted.

    The gradient is that of sum / count over the whole batch, however many microbatches
    it is computed in. Scalars: `grad_norm`, and per group of weights G `grad_norm/G`
    and `param_norm/G`, the latter after the update: to read the old weights beside it,
    XLA would copy them.

    Args:
      loss, optimizer: of the run.
      layout: `precision.masters` and `microbatches` are read.
      seed: of dropout and of rounding at random.
      placement: where gradients and the optimizer's state lie.
      gradient: how the gradient of a microbatch is computed.
      accept: what of an update is kept, and which scalars tell it.
    """
    k, estimate = layout.microbatches, gradient(loss)

    def microbatch(params, frozen, extra, batch, key):
        grads, *rest = estimate(params, frozen, extra, batch, key)
        return placement.as_gradients(float32(grads)), *rest

    def step(state: State, batch: Batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        parts = state.params, state.frozen, state.extra
        if k == 1:
            grads, count, metrics, extra = microbatch(*parts, batch, key)
        else:
            grads, count, metrics, extra = accumulate(
                microbatch, *parts, batch, key, k, placement
            )
        scale = 1 / jnp.maximum(count, 1)
        grads = jax.tree.map(lambda g: g * scale, grads)
        old = dataclasses.replace(state, opt_state=placement.fetched(state.opt_state))
        objective = mean_loss(loss, state, batch, key, k)
        updated = update(old, grads, objective, key)
        new = dataclasses.replace(old, **updated, step=state.step + 1, extra=extra)
        out = metrics, {"grad_norm": optax.tree.norm(grads)}
        new, grads, (metrics, scalars) = accept(old, new, grads, out)
        scalars |= _norms(grads, new.params)
        new = dataclasses.replace(new, opt_state=placement.stored(new.opt_state))
        return new, (metrics, scalars)

    def update(state, grads, objective, key):
        params = placement.as_gradients(float32(state.params))
        updates, opt_state = optimizer.update(
            grads, state.opt_state, params, obj_fn=objective
        )
        params = optax.apply_updates(params, updates)
        if layout.precision.masters == "bfloat16":
            params = round_tree(params, jax.random.fold_in(key, ROUNDING))
        return {"params": placement.as_weights(params), "opt_state": opt_state}

    return step


def _norms(grads: Any, params: Any) -> Scalars:
    out: dict[str, list[jax.Array]] = {}
    for kind, tree in (("grad_norm", grads), ("param_norm", params)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{kind}/{_group([k.key for k in path])}"
            out.setdefault(name, []).append(leaf)
    return {name: optax.tree.norm(leaves) for name, leaves in out.items()}


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


def make_prediction(
    predict: Callable[[Any, Batch], Any],
) -> Callable[[Any, Any, Batch], Any]:
    """(params, frozen, batch) -> predictions, with all weights of the model."""

    def prediction(params, frozen, batch):
        return predict(variables(params, frozen), batch)

    return prediction
