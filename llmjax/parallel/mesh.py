"""The device mesh, entered together with the rules, and checks against it."""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from llmjax.config import LayoutConfig, wording
from llmjax.parallel.axes import BATCH_AXES, RULES, Rules


def make_mesh(
    layout: LayoutConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over `MESH_AXES`, outermost first; one size of -1 takes what is left.

    Raises:
      ValueError: sizes whose product is not the number of devices, or slices that
        are not there or that `data` is no multiple of.
    """
    devices = list(devices if devices is not None else jax.devices())
    sizes = layout.mesh_sizes
    text = ", ".join(f"{a}={n}" for a, n in sizes.items() if n != 1) or "all 1"
    free = [axis for axis, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n != -1)
    if len(free) > 1:
        raise ValueError(f"layout has {text}; at most one axis can be -1")
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"layout asks for {wording.count(fixed, 'device')} ({text}) and there are "
            f"{len(devices)}; "
            f"make the product of layout's axes {len(devices)}, or one of them -1"
        )
    return Mesh(
        arrange(tuple(sizes.values()), devices, layout.slices),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),  # Linen's metadata needs Auto
    )


def arrange(
    sizes: tuple[int, ...], devices: Sequence[Any], slices: int = 1
) -> np.ndarray:
    """Devices as an array of these sizes, inner axes over the nearest links.

    Of several slices each has the same share of the first axis. TPUs know their slice;
    other devices are taken to lie in contiguous blocks where they do not say so.

    Raises:
      ValueError: a number of slices that the TPUs do not have, or a first axis that
        does not divide over them.
    """
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices != slices and devices[0].platform == "tpu":
        raise ValueError(
            f"layout.slices={slices} and the {len(devices)} TPU chips are of "
            f"{num_slices} slices; set layout.slices={num_slices}"
        )
    if sizes[0] % slices:
        raise ValueError(
            f"layout.data={sizes[0]} does not divide over layout.slices={slices}, "
            f"whose slow network it spans; make it a multiple of {slices}"
        )
    # what a torus cannot give whole is split over two of its axes
    split = {"allow_split_physical_axes": True}
    inner = (sizes[0] // slices, *sizes[1:])
    if num_slices == slices > 1:
        outer = (slices, *(1 for _ in sizes[1:]))
        return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, **split)
    block = len(devices) // slices
    blocks = [devices[i : i + block] for i in range(0, len(devices), block)]
    meshes = [mesh_utils.create_device_mesh(inner, part, **split) for part in blocks]
    return np.concatenate(meshes)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = RULES) -> Iterator[None]:
    """Enters mesh and rules; without both, Linen's logical constraints do nothing."""
    with (
        jax.set_mesh(mesh),
        nn.logical_axis_rules(rules),
        targeting(mesh.devices.flat[0]),
    ):
        yield


_TARGET: contextvars.ContextVar[Any] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def targeting(device: Any) -> Iterator[None]:
    """Traces for devices like this one, which need not be here."""
    token = _TARGET.set(device)
    try:
        yield
    finally:
        _TARGET.reset(token)


def target() -> Any:
    """A device like those that a program is traced for.

    One of the mesh in `use`, or else the first here; code that takes a platform's own
    kernel asks it, so that a plan for devices elsewhere has the kernels of a run there.
    """
    device = _TARGET.get() or jax.sharding.get_abstract_mesh().abstract_device
    return device or jax.local_devices()[0]


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of a batch's rows."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def check_batch(batch_size: int, seq_len: int, microbatches: int, mesh: Mesh) -> None:
    """Checks that a batch divides over the mesh, before anything is traced.

    Raises:
      ValueError: naming the axis and the remedy.
    """
    unit = batch_shards(mesh) * microbatches
    if batch_size % unit:
        raise ValueError(
            f"data.batch_size={batch_size} does not divide over {batch_shards(mesh)} "
            f"devices (data x fsdp x expert) times {microbatches} microbatches; make "
            f"it a multiple of {unit}"
        )
    if seq_len % mesh.shape["sequence"]:
        raise ValueError(
            f"data.seq_len={seq_len} does not divide over layout.sequence="
            f"{mesh.shape['sequence']}; make it a multiple of that"
        )


# what each mesh axis shards, in words and in logical axes of weights
_USES = {
    "pipeline": ("stages of stacked layers", "L"),
    "fsdp": ("weights with a model dimension", "D"),
    "expert": ("experts", "E"),
    "tensor": ("weights of heads, feed-forward or vocabulary", "N, K, F, V"),
}


def check_axes(axes: Any, batch: Mapping[str, Any], mesh: Mesh) -> None:
    """Checks that something of a run is sharded over each mesh axis.

    Args:
      axes: tree of the weights' logical axes.
      batch: arrays or their shapes; `sequence` cuts their second dimension.
      mesh: of the run.

    Raises:
      ValueError: naming the axis, what would use it, and the remedy.
    """
    names = {name for leaf in _leaves(axes) for name in leaf if name is not None}
    used = {m for name in names for m in jax.tree.leaves(dict(RULES)[name])}
    for axis, (what, letters) in _USES.items():
        if mesh.shape[axis] > 1 and axis not in used:
            raise ValueError(
                f"layout.{axis}={mesh.shape[axis]} is for {what}, and no weight has "
                f"an axis {letters}; make it 1 and layout.data "
                f"{mesh.shape[axis]} times larger"
            )
    if mesh.shape["sequence"] > 1 and all(v.ndim < 2 for v in batch.values()):
        raise ValueError(
            f"layout.sequence={mesh.shape['sequence']} cuts sequences, and the batch "
            f"({', '.join(batch)}) has none; make it 1 and layout.data "
            f"{mesh.shape['sequence']} times larger"
        )


def _leaves(axes: Any) -> list[tuple[str | None, ...]]:
    return jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
