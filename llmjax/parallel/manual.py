"""Code manual over mesh axes (`jax.shard_map`), and the sizes of the axes around it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType

from llmjax.config import LayoutConfig


def free_axes() -> set[str]:
    """Axes of the entered mesh that no surrounding `jax.shard_map` is manual over."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {axis for axis, kind in types if kind != AxisType.Manual}


def axis_size(axis: str, layout: LayoutConfig | None = None) -> int:
    """Size of an axis of the entered mesh; without a mesh the layout's, or 1.

    An axis that a surrounding `jax.shard_map` is manual over counts 1.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh.shape[axis] if axis in free_axes() else 1
    return 1 if layout is None else max(1, layout.mesh_sizes[axis])


def on_devices(
    function: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """`jax.shard_map` over all free axes, for functions with gradients of their own."""
    return jax.shard_map(
        function,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=free_axes(),
        check_vma=False,  # kernels and custom gradients carry no such types
    )
