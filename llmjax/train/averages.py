"""Averaged weights: how optimizers keep them, and how they are read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState


class AverageState(NamedTuple):
    """The state of `average_weights`."""

    average: Any


def average_weights(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential average of the weights; the last of a chain.

    Polyak & Juditsky 1992; average <- decay * average + (1 - decay) * new weights,
    beginning with the initial weights. `averaged` reads it.
    """

    def init(params):
        return AverageState(jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None):
        new = optax.apply_updates(params, updates)
        average = optax.incremental_update(new, state.average, 1 - decay)
        return updates, AverageState(average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, params: Any) -> Any:
    """The weights to evaluate and keep: averaged ones if the chain has them."""
    kinds = (AverageState, ScheduleFreeState)
    states = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds))
    for state in states:
        if isinstance(state, AverageState):
            return state.average
        if isinstance(state, ScheduleFreeState):
            return _schedule_free(state.b1, state.z, params)
    return params


def _schedule_free(b1: Any, z: Any, params: Any) -> Any:
    """Of `params` y, between the average x and the fast z: y = b1 x + (1 - b1) z."""

    def average(y, z):
        alone = isinstance(z, optax.MaskedNode)  # is not the algorithm's to average
        return y if alone else ((y - (1 - b1) * z) / b1).astype(y.dtype)

    return jax.tree.map(average, params, z)


def needed(saved: Any) -> Callable[[tuple[Any, ...]], bool]:
    """Which leaves of a saved state, by path, `evaluated` makes its weights from."""
    where = _found(saved)
    if where is None:
        return lambda path: path[:1] == ("params",)
    kind, prefix = where
    if kind == "average":
        return lambda path: path[: len(prefix)] == prefix
    parts = {(*prefix, "z"), (*prefix, "b1")}
    return lambda path: path[:1] == ("params",) or path[: len(prefix) + 1] in parts


def evaluated(saved: Any) -> Any:
    """`averaged` of a saved state, of which only the `needed` leaves are arrays."""
    where = _found(saved)
    if where is None:
        return saved["params"]
    kind, prefix = where
    at = saved
    for key in prefix:
        at = at[key]
    if kind == "average":
        return at
    flat = dict(jax.tree_util.tree_leaves_with_path(at["z"]))
    return jax.tree_util.tree_map_with_path(
        lambda path, y: _schedule_free(at["b1"], flat[path], y) if path in flat else y,
        saved["params"],
    )


def _found(saved: Any) -> tuple[str, tuple[Any, ...]] | None:
    """What average a saved state has, and the path to it."""
    for path, _ in jax.tree_util.tree_leaves_with_path(saved):
        keys = tuple(k.key if hasattr(k, "key") else k.idx for k in path)
        if keys[0] != "opt_state":
            continue
        if "average" in keys:
            return "average", keys[: keys.index("average") + 1]
        if "z" in keys:  # of a ScheduleFreeState
            return "z", keys[: keys.index("z")]
    return None
