"""The device mesh, and the one helper that enters it together with the rules."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh

from llmjax.config import LayoutConfig
from llmjax.parallel.axes import BATCH_AXES, MESH_AXES, RULES, Rules


def make_mesh(
    layout: LayoutConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over `MESH_AXES`, outermost first; one size of -1 takes what is left.

    Raises:
      ValueError: sizes whose product is not the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    sizes = {axis: getattr(layout, axis) for axis in MESH_AXES}
    text = ", ".join(f"{a}={n}" for a, n in sizes.items() if n != 1) or "all 1"
    free = [axis for axis, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n != -1)
    if len(free) > 1 or any(n == 0 or n < -1 for n in sizes.values()):
        raise ValueError(
            f"layout has {text}; each axis must be positive and at most one be -1"
        )
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"layout asks for {fixed} devices ({text}) and there are {len(devices)}; "
            f"make the product of layout's axes {len(devices)}, or one of them -1"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),  # Linen's metadata needs Auto
        devices=devices,
    )


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = RULES) -> Iterator[None]:
    """Enters mesh and rules; without both, Linen's logical constraints do nothing."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def batch_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are spread."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def check_batch(batch_size: int, seq_len: int, microbatches: int, mesh: Mesh) -> None:
    """A clear error for a batch that does not divide, before anything is traced.

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
            f"{mesh.shape['sequence']}; make it a multiple"
        )
