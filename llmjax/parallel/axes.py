"""The legend of axes, and the one table that lays logical axes on the mesh.

In names of tensors (`q_BTNH`) and in equations:
  B batch, T query length, S key length, D model, F feed-forward, N query heads,
  K key/value heads, G = N / K, H head size, L layers, V vocabulary, C classes or an
  expert's capacity, E experts, R rank of a latent, M embedding size where it is not D,
  P places whose tokens are predicted.

A weight names its axes by these letters; a square weight's second D is `D_out`, a
vector over D (norms, biases) is `D_vector`, one over E `E_vector`; `E_balance` moves
by its gradient alone. Rows of learned positions are `T`. Activations have names of
their own (`act_D`), because D -> fsdp and B -> (data, fsdp) would meet in one tensor.
Rows are `act_B_L` outside of the layers, which may lie on `pipeline`, and `act_B_E`
beside experts `act_E`, of which each has `act_C` places. Tokens between attention and
MLP are `act_T_D`, which may lie on `tensor` too.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from llmjax.config import LayoutConfig

MESH_AXES = tuple(LayoutConfig().mesh_sizes)
BATCH_AXES = ("data", "fsdp", "expert")

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]
Axes = tuple[str | None, ...]

RULES: Rules = (
    ("L", "pipeline"),
    ("D", "fsdp"),
    ("D_out", None),
    ("D_vector", None),
    ("F", "tensor"),
    ("N", "tensor"),
    ("K", "tensor"),
    ("H", None),
    ("R", None),
    ("V", "tensor"),
    ("C", None),
    ("E", "expert"),
    ("E_vector", None),
    ("E_balance", None),
    ("T", None),
    ("act_B", BATCH_AXES),
    ("act_B_L", (*BATCH_AXES, "pipeline")),  # outside of the layers
    ("act_T", "sequence"),
    ("act_T_D", ("sequence", "tensor")),  # between branches, if sequence_parallel
    ("act_D", None),
    ("act_F", "tensor"),
    ("act_N", "tensor"),
    ("act_K", "tensor"),
    ("act_H", None),
    ("act_V", "tensor"),
    ("act_E", "expert"),
    ("act_B_E", ("data", "fsdp")),  # beside act_E
    ("act_C", "sequence"),
)


def param_axes(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Shapes and logical axes of a model's weights, by `jax.eval_shape`.

    Args:
      model: any Linen module whose input is a batch.
      batch: arrays or ShapeDtypeStructs.

    Returns:
      Two trees of one structure: ShapeDtypeStructs, and tuples of axis names.
    """

    def is_box(x):
        return isinstance(x, nn.LogicallyPartitioned)

    def names(x):
        return tuple(x.names) if is_box(x) else (None,) * x.ndim

    boxed = jax.eval_shape(lambda b: model.init(jax.random.key(0), b), batch)["params"]
    return nn.unbox(boxed), jax.tree.map(names, boxed, is_leaf=is_box)


def partition_spec(axes: Axes, name: str, rules: Rules = RULES) -> PartitionSpec:
    """The PartitionSpec of a tensor whose dimensions have these logical axes.

    Raises:
      ValueError: an axis that the table lacks, or two axes on one mesh axis.
    """
    table = dict(rules)
    users: dict[str, str] = {}
    spec = []
    for axis in axes:
        if axis is not None and axis not in table:
            raise ValueError(
                f"{name} has the logical axis {axis!r}, which the rule table lacks; "
                f"it knows {', '.join(table)}"
            )
        mesh_axes = table[axis] if axis is not None else None
        for m in (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ():
            if m in users:
                raise ValueError(
                    f"{name}: logical axes {users[m]!r} and {axis!r} both lie on mesh "
                    f"axis {m!r}; give one of them another name or rule"
                )
            users[m] = str(axis)
        spec.append(mesh_axes)
    return PartitionSpec(*spec)


def shards(entry: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh) -> int:
    """Number of shards that one entry of a PartitionSpec cuts its dimension into."""
    count = 1
    for axis in (entry,) if isinstance(entry, str) else entry or ():
        count *= mesh.shape[axis]
    return count


def sharding(
    name: str, shape: tuple[int, ...], axes: Axes, mesh: Mesh, rules: Rules = RULES
) -> NamedSharding:
    """The sharding of a tensor, checked before anything is traced.

    Raises:
      ValueError: a dimension that its mesh axes do not divide; it names the tensor,
        the axis and what to change.
    """
    spec = partition_spec(axes, name, rules)
    for size, axis, entry in zip(shape, axes, spec, strict=True):
        count = shards(entry, mesh)
        if size % count:
            fields = (entry,) if isinstance(entry, str) else entry or ()
            product = " x ".join(f"layout.{axis}" for axis in fields)
            raise ValueError(
                f"{name} has shape {shape}: axis {axis!r} of size {size} does not "
                f"divide over mesh axis {entry!r} of size {count}; make the size a "
                f"multiple of {count}, or {product} a divisor of {size}"
            )
    return NamedSharding(mesh, spec)


def tree_shardings(shapes: Any, axes: Any, mesh: Mesh) -> Any:
    """`sharding` of every leaf: `shapes` and `axes` are trees of one structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, leaf_axes: sharding(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            leaf.shape,
            leaf_axes,
            mesh,
        ),
        shapes,
        axes,
    )


def batch_sharding(mesh: Mesh, batch: Mapping[str, object]) -> dict[str, NamedSharding]:
    """Shardings of a batch: rows over the batch axes, tokens over `sequence`."""
    axes = ("act_B", "act_T")
    return {
        k: NamedSharding(mesh, partition_spec(axes[: getattr(v, "ndim", 0)], k))
        for k, v in batch.items()
    }
