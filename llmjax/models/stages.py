"""A group of layers as the stages of a pipeline."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.models.context import Context
from llmjax.models.experts.mixture import STATISTICS, RouterSums
from llmjax.parallel import pipeline


def through_stages(
    module: Any,
    weights: Any,
    x_BTD: jax.Array,
    context: Context,
    plan: pipeline.CircularSchedule,
    *,
    layers: int,
    shared: bool,
    key: jax.Array | None,
) -> tuple[jax.Array, Any]:
    """A group's output, computed by `pipeline.circulate`.

    Dropout draws from a key of its own per stage and microbatch (and layer, by the
    module), so its bits are not those of the group without a pipeline.

    Args:
      module: unbound, the scan over one stage's layers.
      weights: the group's, stacked unless `shared`.
      x_BTD, context: of the whole batch.
      plan: how many stages and microbatches.
      layers: of one stage.
      shared: all layers have the same weights.
      key: of dropout, if it is on.

    Returns:
      [B, T, D], and what the routers sowed: their sums over the microbatches.
    """
    beside, rebuild = _distinct(dataclasses.replace(context, shared_positions=None))
    common = {"positions": context.shared_positions, "key": key}
    if shared:
        common["weights"], weights = weights, {}

    def stage(weights, common, x_BTD, beside, number, microbatch):
        rngs = {}
        if common["key"] is not None:
            here = jax.random.fold_in(common["key"], number)
            rngs["dropout"] = jax.random.fold_in(here, microbatch)
        ((x_BTD, _), _), sown = module.apply(
            {"params": common.get("weights", weights)},
            (x_BTD, None),
            jnp.arange(layers),
            rebuild(beside).replace(shared_positions=common["positions"]),
            None,
            rngs=rngs,
            mutable=[STATISTICS],
        )
        return x_BTD, sown.get(STATISTICS, {})

    x_BTD, sums = pipeline.circulate(stage, weights, common, x_BTD, beside, plan)

    def once(sums: RouterSums) -> RouterSums:
        """The bias is no sum over tokens: it came with every microbatch."""
        if sums.balance_E is None:
            return sums
        mean_E = sums.balance_E / plan.microbatches
        return dataclasses.replace(sums, balance_E=mean_E)

    return x_BTD, jax.tree.map(once, sums, is_leaf=lambda s: isinstance(s, RouterSums))


def _distinct(tree: Any) -> tuple[list[Any], Any]:
    """The arrays of a tree, each once, and a function from them to such a tree."""
    leaves, structure = jax.tree.flatten(tree)
    once = list({id(leaf): leaf for leaf in leaves}.values())
    where = [[id(a) for a in once].index(id(leaf)) for leaf in leaves]
    return once, lambda arrays: jax.tree.unflatten(
        structure, [arrays[i] for i in where]
    )
