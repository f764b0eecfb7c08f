"""The state of a run, its shapes and the axes of all its leaves."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from llmjax.models.forward import REFERENCE
from llmjax.parallel.axes import Axes
from llmjax.parallel.processes import distributed
from llmjax.train.checkpoints import frozen as frozen_lib
from llmjax.train.optimizers import roles


@flax.struct.dataclass
class State:
    """All that a step reads and changes; what a checkpoint holds.

    Attributes:
      step: int scalar, updates done.
      params: the weights that are differentiated and updated, of the type
        `layout.precision.masters`.
      frozen: trees by name that no step changes. "params" holds the weights of the
        model that are not trained, "reference" what the trained ones were at first, if
        the task reads that; the others belong to whoever reads them, as a
        distillation's "teacher".
      extra: trees by name that the loss reads and returns anew, as float16's scale.
      opt_state: of the optax chain.
    """

    step: Any
    params: Any
    frozen: Any
    extra: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class WithAxes:
    """A tree for `State.frozen` or `State.extra`, and the logical axes of its leaves.

    Attributes:
      values: arrays of numpy or jax; copied. ShapeDtypeStructs will do where nothing
        is computed, and for frozen weights of a run that is resumed.
      axes: tuples of axis names in the structure of `values`; None replicates all.
    """

    values: Any
    axes: Any = None

    def checked(self, name: str) -> "WithAxes":
        """Itself with all its axes.

        Raises:
          ValueError: a leaf without as many axes as it has dimensions.
        """
        if self.axes is None:
            return WithAxes(self.values, jax.tree.map(_none, self.values))
        is_axes = lambda x: isinstance(x, tuple)  # noqa: E731
        leaves = jax.tree_util.tree_leaves_with_path(self.values)
        pairs = jax.tree_util.tree_leaves_with_path(self.axes, is_leaf=is_axes)
        axes = {_name(path): leaf_axes for path, leaf_axes in pairs}
        for path, leaf in leaves:
            if len(axes.get(_name(path), "?")) != leaf.ndim:
                raise ValueError(
                    f"{name}/{_name(path)} has shape {leaf.shape} and the axes "
                    f"{axes.get(_name(path))}; give a name or None for each dimension"
                )
        return self

    @property
    def shapes(self) -> Any:
        """ShapeDtypeStructs of the values."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.values
        )

    def placed(self, shardings: Any) -> Any:
        """Copies of the values where they belong; a step may be donated them."""

        def place(value: Any, sharding: NamedSharding) -> jax.Array:
            copy = jax.jit(jnp.copy, out_shardings=sharding)
            return copy(distributed.spread(value, sharding))

        return jax.tree.map(place, self.values, shardings)


def initial(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: Any,
    key: jax.Array,
    masters: str = "float32",
    frozen: Collection[str] = (),
    elsewhere: Collection[str] = (),
    reference: bool = False,
) -> State:
    """A fresh state; `batch` may be ShapeDtypeStructs. Meant to be jitted.

    The optimizer's state is float32 whatever the type of the weights is.

    Args:
      model, optimizer: of the run.
      batch: what the model reads.
      key: of the initial weights.
      masters: type of the weights.
      frozen: names of the weights that go to `State.frozen`.
      elsewhere: names of the weights that a caller has, and this state lacks.
      reference: whether to keep the trained weights as they are now, in
        `State.frozen`.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    params = nn.unbox(model.init(key, zeros)["params"])
    if masters == "bfloat16":
        params = jax.tree.map(_bfloat16, params)
    params, _ = frozen_lib.split(params, elsewhere)
    params, kept = frozen_lib.split(params, frozen)
    trees = {frozen_lib.PARAMS: kept} if kept else {}
    if reference:
        trees[REFERENCE] = jax.tree.map(jnp.copy, params)
    opt_state = optimizer.init(float32(params))
    return State(jnp.zeros((), jnp.int32), params, trees, {}, opt_state)


def _bfloat16(leaf: jax.Array) -> jax.Array:
    floats = jnp.issubdtype(leaf.dtype, jnp.floating)  # an adapter may have places
    return leaf.astype(jnp.bfloat16) if floats else leaf


def float32(tree: Any) -> Any:
    """Weights or gradients as the optimizer sees them: never of less than 32 bits."""
    return jax.tree.map(
        lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree
    )


def joined(state: State, frozen: Mapping[str, Any], extra: Mapping[str, Any]) -> State:
    """`state` with a caller's trees too: of values, shapes or axes alike."""
    trees = dict(state.frozen)
    for name, tree in frozen.items():
        trees[name] = frozen_lib.merge(trees[name], tree) if name in trees else tree
    return dataclasses.replace(state, frozen=trees, extra={**state.extra, **extra})


def copied(tree: Any) -> Any:
    """The arrays of a tree again, laid out as they are."""
    shardings = jax.tree.map(lambda x: x.sharding, tree)
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)(
        tree
    )


def state_axes(shapes: State, axes: Any, frozen: Any) -> State:
    """Logical axes of every leaf of a state as `initial` gives it.

    A leaf of the optimizer whose path ends in a parameter's takes that parameter's
    axes where the shapes agree, the axes of the dimensions it kept where it is
    factored (Adafactor), and none otherwise.

    Args:
      shapes: of the state.
      axes, frozen: axes of the weights that are trained, and of the model's others.
    """
    names = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    leaves = jax.tree_util.tree_leaves_with_path(shapes.params)
    parameters = {
        _keys(path): (leaf.shape, leaf_axes)
        for (path, leaf), leaf_axes in zip(leaves, names, strict=True)
    }

    def of(path, leaf):
        keys = _keys(path)
        for start in range(len(keys)):
            if keys[start:] in parameters:
                return _kept(leaf.shape, *parameters[keys[start:]])
        return (None,) * leaf.ndim

    opt_state = jax.tree_util.tree_map_with_path(of, shapes.opt_state)
    trees = {frozen_lib.PARAMS: frozen} if frozen else {}
    if REFERENCE in shapes.frozen:
        trees[REFERENCE] = axes
    return State((), axes, trees, {}, opt_state)


def _none(leaf: Any) -> Axes:
    return (None,) * leaf.ndim


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(_name(path).split("/"))


def _kept(shape: tuple[int, ...], whole: tuple[int, ...], axes: Axes) -> Axes:
    """Axes of a leaf that has a parameter's shape, or that shape less one dimension.

    The shape may be that of a projection's matrix, its heads merged.
    """
    if shape == whole:
        return axes
    merged, merged_axes = roles.merge_heads(whole, axes)
    if merged != whole:
        return _kept(shape, merged, merged_axes)
    for i in range(len(whole)):
        # of two dimensions of one size either may be gone: replication is always right
        if whole[:i] + whole[i + 1 :] == shape and whole.count(whole[i]) == 1:
            return axes[:i] + axes[i + 1 :]
    return (None,) * len(shape)
