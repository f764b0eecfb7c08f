"""The sharding report: every leaf's shape, axes and bytes per device."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.parallel.axes import partition_spec, shards


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a state, and its bytes on one device.

    `memory` is "device", or the kind of host memory that holds them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]
    mesh_axes: tuple[str | tuple[str, ...] | None, ...]
    bytes_per_device: int
    memory: str = "device"


def sharding_report(
    shapes: Any, axes: Any, mesh: Mesh, shardings: Any = None
) -> list[Leaf]:
    """One `Leaf` per leaf of `shapes`.

    Args:
      shapes: arrays or ShapeDtypeStructs.
      axes: a tree of logical axes beside it.
      mesh: of the devices.
      shardings: a tree of NamedShardings that replaces those of the table of axes.
    """

    def leaf(path, value, leaf_axes, *sharding):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = sharding[0].spec if sharding else partition_spec(leaf_axes, name)
        count = math.prod(shards(entry, mesh) for entry in spec)
        size = math.prod(value.shape) * np.dtype(value.dtype).itemsize
        kind = sharding[0].memory_kind if sharding else None
        memory = kind if kind in ("pinned_host", "unpinned_host") else "device"
        bytes_per_device = size // count
        return Leaf(
            name,
            value.shape,
            str(value.dtype),
            leaf_axes,
            tuple(spec),
            bytes_per_device,
            memory,
        )

    trees = (axes,) if shardings is None else (axes, shardings)
    rows = jax.tree_util.tree_map_with_path(leaf, shapes, *trees)
    return jax.tree.leaves(rows, is_leaf=lambda x: isinstance(x, Leaf))


def format_report(rows: list[Leaf]) -> str:
    """The rows as aligned text, largest first, with the total of each memory."""

    def cells(row: Leaf) -> list[str]:
        axes = " ".join(a or "-" for a in row.logical_axes) or "-"
        spec = " ".join(
            "-" if e is None else e if isinstance(e, str) else "+".join(e)
            for e in row.mesh_axes
        )
        shape = "x".join(map(str, row.shape)) or "scalar"
        return [row.name, shape, row.dtype, axes, spec or "-"]

    ordered = sorted(rows, key=lambda r: -r.bytes_per_device)
    head = ["leaf", "shape", "dtype", "logical axes", "mesh axes", "bytes/device"]
    table = [head] + [[*cells(r), f"{r.bytes_per_device:,}"] for r in ordered]
    totals = {"device": 0}
    for row in rows:
        totals[row.memory] = totals.get(row.memory, 0) + row.bytes_per_device
    for memory, total in totals.items():
        name = "total" if memory == "device" else f"total in {memory}"
        table.append([name, "", "", "", "", f"{total:,}"])
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = [
        "  ".join(
            c.rjust(w) if i == len(head) - 1 else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)
