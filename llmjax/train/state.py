"""The state of a run, its shapes and the axes of all its leaves."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from llmjax.parallel.axes import Axes


@flax.struct.dataclass
class State:
    """All that changes with `step`; what a checkpoint holds.

    Attributes:
      step: int scalar, updates done.
      params: what is differentiated and updated, of the type `layout.masters`.
      frozen: weights that are neither.
      extra: what the loss carries from step to step; in float16 its scale.
      opt_state: of the optax chain.
    """

    step: Any
    params: Any
    frozen: Any
    extra: Any
    opt_state: Any


def initial(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: Any,
    key: jax.Array,
    masters: str = "float32",
    extra: Any = None,
) -> State:
    """A fresh state; `batch` may be ShapeDtypeStructs. Meant to be jitted.

    The optimizer's state is float32 whatever the weights' type, `masters`, is.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    params = nn.unbox(model.init(key, zeros)["params"])
    if masters == "bfloat16":
        params = optax.tree.cast(params, jnp.bfloat16)
    opt_state = optimizer.init(float32(params))
    extra = {} if extra is None else extra
    return State(jnp.zeros((), jnp.int32), params, {}, extra, opt_state)


def float32(tree: Any) -> Any:
    """Weights or gradients as the optimizer sees them: never of less than 32 bits."""
    return jax.tree.map(
        lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree
    )


def state_axes(shapes: State, params: Any, axes: Any) -> State:
    """Logical axes of every leaf of a state, from those of its parameters.

    A leaf of the optimizer whose path ends in a parameter's takes that parameter's
    axes where the shapes agree, the axes of the dimensions it kept where it is
    factored (Adafactor), and none otherwise.
    """
    names = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {
        _keys(path): (leaf.shape, leaf_axes)
        for (path, leaf), leaf_axes in zip(leaves, names, strict=True)
    }

    def of(path, leaf):
        keys = _keys(path)
        for start in range(len(keys)):
            if keys[start:] in known:
                return _kept(leaf.shape, *known[keys[start:]])
        return (None,) * leaf.ndim

    return jax.tree_util.tree_map_with_path(of, shapes)


def _keys(path: Any) -> tuple[str, ...]:
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return tuple(text.split("/"))


def _kept(shape: tuple[int, ...], whole: tuple[int, ...], axes: Axes) -> Axes:
    """Axes of a leaf that has a parameter's shape, or that shape less one dimension."""
    if shape == whole:
        return axes
    for i in range(len(whole)):
        # of two dimensions of one size either may be gone: replication is always right
        if whole[:i] + whole[i + 1 :] == shape and whole.count(whole[i]) == 1:
            return axes[:i] + axes[i + 1 :]
    return (None,) * len(shape)
