"""TPU chips with their published numbers, and topologies of chips.

Sources, by the letter used below:
  [D] https://docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, system
      architecture: peak compute, HBM, network, TensorCores.
  [B] Austin et al. 2025, "How to Scale Your Model", part 2 ("How to Think About
      TPUs", https://jax-ml.github.io/scaling-book/tpus): bandwidth of one ICI link in
      one direction, wrap-around rules; part 3 ("Sharded Matrices") for latency.
  [C] the TPU compiler itself (libtpu 0.0.52): the memory that it names when it refuses
      to compile a 300 GiB array ("exceeds available HBM (15.75G)").
  [P] https://cloud.google.com/tpu/pricing, on demand, where the book cites it, else
      the price commonly quoted; only the default of a flag.
"""

import dataclasses
import math
import re

from llmjax.config import Fp8, Int8, Quantization
from llmjax.train.metrics.flops import PUBLISHED_PEAKS

GIB = 2**30


def quantized_speedup(int8: float, fp8: float, quantization: Quantization) -> float:
    """Speedup of a step's quantized matmuls over bfloat16, from those of the peaks.

    Two of three matmuls belong to the backward pass.
    """
    if not isinstance(quantization, Int8 | Fp8):
        return 1.0
    speedup = int8 if isinstance(quantization, Int8) else fp8
    return speedup if quantization.backward else 3 / (1 / speedup + 2)


# Latency of one hop over a link, in seconds [B, part 3].
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip; rates are in FLOP/s and bytes/s of the whole chip."""

    name: str  # the first part of a topology's name: "v5p"
    device_kind: str  # key of PUBLISHED_PEAKS: "TPU v5p"
    int8_speedup: float  # int8 peak / bfloat16 peak
    flops_per_cycle: int  # bfloat16: MXUs x rows x columns x 2
    mxu: int  # rows, and columns, of one MXU
    hbm_bytes: int  # nominal
    usable_hbm_bytes: int  # limit that the compiler sets for one program, per chip
    hbm_bandwidth: float
    link_bandwidth: float  # one ICI link, one direction
    torus_dims: int
    dcn_bandwidth: float  # the chip's share of its host's network, one direction
    host_bandwidth: float  # PCIe link to the host's memory, one direction
    dollars_per_hour: float  # default of --price
    devices: int = 1  # jax devices per chip
    fp8_speedup: float = 1.0  # float8 peak / bfloat16 peak [D]
    config_name: str | None = None  # chip_config_name, where not the compiler's default

    @property
    def bf16_flops(self) -> float:
        """Peak FLOP/s in bfloat16."""
        return PUBLISHED_PEAKS[self.device_kind]

    @property
    def hertz(self) -> float:
        """Clock of the TensorCores: published peak / FLOPs per cycle."""
        return self.bf16_flops / self.flops_per_cycle

    def speedup(self, quantization: Quantization) -> float:
        """Speedup of a step's quantized matmuls over bfloat16."""
        return quantized_speedup(self.int8_speedup, self.fp8_speedup, quantization)

    @property
    def cores(self) -> int:
        """TensorCores per jax device: two where both act as one device."""
        core = 4 * self.mxu * self.mxu * 2
        return self.flops_per_cycle // self.devices // core

    @property
    def wrap_multiple(self) -> int:
        """Side of a cube, or of a pod: a dimension that it divides is a ring [B]."""
        return 4 if self.torus_dims == 3 else 16


# flops_per_cycle: a core has four MXUs of 128 x 128 [D]. v6e has two of 256 x 256
# [D, B] that take two rows a cycle: for an 8192^3 matmul the compiler estimates 369e3
# FLOPs a cycle (422e3 on a core of tpu7x), more than the 262144 of one row a cycle;
# two rows make 524288, at which it schedules attention kernels [C].
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            device_kind="TPU v4",
            int8_speedup=1.0,  # [D] 275e12 in both
            flops_per_cycle=2 * 4 * 128 * 128 * 2,  # 1.05 GHz
            mxu=128,
            hbm_bytes=32 * GIB,  # [D]
            usable_hbm_bytes=int(30.75 * GIB),  # [C]
            hbm_bandwidth=1.2e12,  # [D]
            link_bandwidth=4.5e10,  # [B]
            torus_dims=3,
            dcn_bandwidth=2.5e10 / 4,  # [B] for a host of four chips
            host_bandwidth=1.5e10,  # [B] "around 1.5e10"
            dollars_per_hour=3.22,  # [P]
            config_name="megacore",  # two cores as one device, Cloud's setting
        ),
        Chip(
            name="v5e",
            device_kind="TPU v5 lite",
            int8_speedup=2.0,  # [D] 393e12
            flops_per_cycle=4 * 128 * 128 * 2,  # 1.50 GHz
            mxu=128,
            hbm_bytes=16 * GIB,  # [D]
            usable_hbm_bytes=int(15.75 * GIB),  # [C]
            hbm_bandwidth=8.19e11,  # [D]
            link_bandwidth=4.5e10,  # [B]
            torus_dims=2,
            dcn_bandwidth=6.4e12 / 8 / 256,  # [D] 6.4 Tbps for a pod of 256
            host_bandwidth=1.5e10,  # [B] "around 1.5e10"
            dollars_per_hour=1.20,  # [P]
        ),
        Chip(
            name="v5p",
            device_kind="TPU v5p",
            int8_speedup=2.0,  # [B] 918e12
            flops_per_cycle=2 * 4 * 128 * 128 * 2,  # 1.75 GHz
            mxu=128,
            hbm_bytes=96 * GIB,  # [B]; [D] says 95, [C] gives more
            usable_hbm_bytes=int(95.73 * GIB),  # [C]
            hbm_bandwidth=2.765e12,  # [D]
            link_bandwidth=9e10,  # [B]
            torus_dims=3,
            dcn_bandwidth=50e9 / 8,  # [D] 50 Gbps
            host_bandwidth=1.5e10,  # [B] "around 1.5e10"
            dollars_per_hour=4.20,  # [P]
        ),
        Chip(
            name="v6e",
            device_kind="TPU v6 lite",
            int8_speedup=2.0,  # [D] 1836e12
            flops_per_cycle=4 * 256 * 256 * 2,  # 1.75 GHz
            mxu=256,
            hbm_bytes=32 * GIB,  # [D]
            usable_hbm_bytes=int(31.24 * GIB),  # [C]
            hbm_bandwidth=1.638e12,  # [D]
            link_bandwidth=9e10,  # [B]
            torus_dims=2,
            dcn_bandwidth=100e9 / 8,  # [D] 100 Gbps
            host_bandwidth=3.2e10,  # [B]
            dollars_per_hour=2.70,  # [P]
        ),
        Chip(
            name="tpu7x",
            device_kind="TPU7x",
            int8_speedup=1.0,  # [C] estimates no gain
            flops_per_cycle=2 * 4 * 256 * 256 * 2,  # 2.20 GHz
            mxu=256,
            hbm_bytes=192 * GIB,  # [D]
            usable_hbm_bytes=2 * int(94.74 * GIB),  # [C] each of two devices
            hbm_bandwidth=7.38e12,  # [D]
            link_bandwidth=1.2e12 / 6 / 2,  # [D] both directions of six links
            torus_dims=3,
            dcn_bandwidth=100e9 / 8,  # [D] 100 Gbps
            host_bandwidth=3.2e10,  # not published; v6e's value
            dollars_per_hour=12.0,  # [P]
            devices=2,
            fp8_speedup=2.0,  # [D] 4614e12
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`num_slices` slices, each a grid of chips."""

    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1

    platform = "tpu"

    @property
    def chips(self) -> int:
        """Chips in all slices together."""
        return math.prod(self.shape) * self.num_slices

    @property
    def devices(self) -> int:
        """jax devices in all slices: two per chip on tpu7x, else one."""
        return self.chips * self.chip.devices

    @property
    def name(self) -> str:
        """Name of one slice for `jax.experimental.topologies`: "v5p:4x4x4"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def options(self) -> dict[str, object]:
        """Arguments for `topologies.get_topology_desc`."""
        options: dict[str, object] = {"topology_name": self.name}
        if self.num_slices > 1:
            options["num_slices"] = self.num_slices
        if self.chip.config_name:
            options["chip_config_name"] = self.chip.config_name
        return options

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Per dimension, whether its ends are linked, which makes it a ring.

        In a 3D torus, cubes of 4x4x4 and multiples of them wrap in every dimension by
        optical switches, smaller slices in none. In a 2D torus a side of 16 wraps [B].
        """
        multiple = self.chip.wrap_multiple
        rings = tuple(n % multiple == 0 for n in self.shape)
        return rings if self.chip.torus_dims == 2 or all(rings) else (False,) * 3


def parse(text: str, num_slices: int = 1) -> Topology:
    """Parses a name as "v5p:4x4x4".

    Raises:
      ValueError: an unknown chip or shape; names those that are accepted.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
    name, sizes = match.groups() if match else (text.split(":")[0], "")
    if name not in CHIPS or not sizes:
        raise ValueError(
            f"topology is {text!r}; it is CHIP:SHAPE, as v5e:16x16 or v5p:4x4x4, with "
            f"a chip of {', '.join(CHIPS)}"
        )
    chip = CHIPS[name]
    shape = tuple(int(n) for n in sizes.split("x"))
    if len(shape) != chip.torus_dims or 0 in shape:
        example = "4x4x4" if chip.torus_dims == 3 else "16x16"
        raise ValueError(
            f"topology is {text!r}; {name} is a torus of {chip.torus_dims} dimensions, "
            f"so give {chip.torus_dims} sizes, as {name}:{example}"
        )
    if chip.torus_dims == 2 and max(shape) > 16:
        raise ValueError(
            f"topology is {text!r}; a slice of {name} has at most 16x16 chips, so take "
            f"several: --topology={name}:16x16 --num_slices=N"
        )
    odd = [n for n in shape[:2] if n > 1 and n % 2]
    if odd:
        raise ValueError(
            f"topology is {text!r}; a host holds 2x2 chips, so the first two sizes are "
            f"1 or even, not {odd[0]}"
        )
    if num_slices < 1:
        raise ValueError(f"num_slices is {num_slices}; it must be at least 1")
    return Topology(chip, shape, num_slices)
