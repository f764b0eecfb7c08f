"""Programs compiled for TPUs and GPUs, and meshes, for tests without their compilers.

A decoder of 4 layers (512 wide, 1536 in the MLP, 4 heads and 2 of keys of 128, 4096
words, batch 16 x 1024, splash attention, remat "full", loss in 8 blocks), by libtpu
0.0.52: `fsdp_v5e` over v5e:4x4 as fsdp=16, `mixed_v5p` over v5p:2x2x4 as data=2,
fsdp=4, tensor=2; by jax 0.12.0.1 and cuDNN 9.28 `mixed_h100` over h100:8x2 with the
same mesh and rows without segments. The bodies of kernels and attributes that nothing
reads are cut out.
"""

import dataclasses
import gzip
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from llmjax.plan.cost import chips
from llmjax.plan.cost.gpus import GpuTopology

FIXTURES = Path(__file__).parent / "fixtures"
AXES = ("data", "pipeline", "fsdp", "expert", "sequence", "tensor")


def text(name: str) -> str:
    """The text of a program in `FIXTURES`."""
    return gzip.decompress((FIXTURES / f"{name}.txt.gz").read_bytes()).decode()


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that the plan reads."""

    coords: tuple[int, int, int]
    core_on_chip: int
    slice_index: int
    process_index: int  # any number of its host, which has 2 x 2 chips


def mesh(topology: chips.Topology, **sizes: int) -> Mesh:
    """A mesh over the topology's devices, in the order of cores, x, y, z, slices."""
    shape = (*topology.shape, 1)[:3]
    devices = [
        Device((x, y, z), core, s, hash((s, z, y // 2, x // 2)))
        for s in range(topology.num_slices)
        for z in range(shape[2])
        for y in range(shape[1])
        for x in range(shape[0])
        for core in range(topology.chip.devices)
    ]
    return _mesh(devices, sizes)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The attributes of a GPU of a topology that the plan reads."""

    process_index: int
    coords: tuple[int, int, int]
    slice_index: int = 0


def gpu_mesh(topology: GpuTopology, **sizes: int) -> Mesh:
    """A mesh over a cluster's GPUs, host by host."""
    devices = [
        Gpu(host, (host, 0, i))
        for host in range(topology.hosts)
        for i in range(topology.per_host)
    ]
    return _mesh(devices, sizes)


def _mesh(devices: list, sizes: dict[str, int]) -> Mesh:
    array = np.empty(len(devices), object)
    array[:] = devices
    layout = [sizes.get(axis, 1) for axis in AXES]
    return Mesh(array.reshape(layout), AXES)
