"""Averaged weights: how optimizers keep them, and how they are read."""

import dataclasses
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
    for _, state in _states(opt_state):
        if isinstance(state, AverageState):
            return state.average
        return _schedule_free(state.b1, state.z, params)
    return params


def _states(tree: Any) -> list[tuple[Any, Any]]:
    """(path, state) of every part of a chain that averages."""
    kinds = (AverageState, ScheduleFreeState)
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: isinstance(x, kinds)
    )
    return [(path, state) for path, state in leaves if isinstance(state, kinds)]


def _schedule_free(b1: Any, z: Any, params: Any) -> Any:
    """The average x, where weights y = b1 x + (1 - b1) z and z are the fast ones."""

    def average(y, z):
        alone = isinstance(z, optax.MaskedNode)  # is not the algorithm's to average
        return y if alone else ((y - (1 - b1) * z) / b1).astype(y.dtype)

    return jax.tree.map(average, params, z)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a saved state has the averaged weights.

    Attributes:
      kind: "average", the tree itself; "z", the fast weights of a schedule-free one,
        from which it is computed; "none".
      path: keys from the state's root to the average, or to what holds z.
    """

    kind: str = "none"
    path: tuple[str | int, ...] = ()

    def needed(self, path: tuple[str | int, ...]) -> bool:
        """Whether `weights` reads the leaf at `path` of a saved state."""
        own = path[:1] == ("params",)
        if self.kind == "none":
            return own
        if self.kind == "average":
            return path[: len(self.path)] == self.path
        parts = {(*self.path, "z"), (*self.path, "b1")}
        return own or path[: len(self.path) + 1] in parts

    def weights(self, saved: Any) -> Any:
        """`averaged` of a saved state, of which only the `needed` leaves are arrays."""
        if self.kind == "none":
            return saved["params"]
        at = saved
        for key in self.path:
            at = at[key]
        if self.kind == "average":
            return at
        fast = dict(jax.tree_util.tree_leaves_with_path(at["z"]))
        return jax.tree_util.tree_map_with_path(
            lambda path, y: (
                _schedule_free(at["b1"], fast[path], y) if path in fast else y
            ),
            saved["params"],
        )


def place(state: Any) -> Place:
    """Where a checkpoint of `state` will have its averaged weights."""
    for path, part in _states(state):
        keys = key_path(path)
        if isinstance(part, AverageState):
            return Place("average", (*keys, "average"))
        return Place("z", keys)
    return Place()


def key_path(path: Any) -> tuple[str | int, ...]:
    """A path of jax as names and indices, as json and a checkpoint's tree have it."""
    return tuple(
        k.name if hasattr(k, "name") else k.key if hasattr(k, "key") else k.idx
        for k in path
    )
