"""GPUs with their published numbers, and clusters of them.

Sources, by the letter used below; rates of matrix units are without sparsity:

- [A] "NVIDIA A100 Tensor Core GPU" data sheet, 2021; of both SXM4 models.
- [H] "NVIDIA H100 Tensor Core GPU" data sheet, 2024; column H100 SXM.
- [H2] "NVIDIA H200 Tensor Core GPU" data sheet, 2024; column H200 SXM.
- [B] "NVIDIA HGX B200" and "DGX B200" data sheets, 2025; an eighth of each.
- [L] "NVIDIA L4 Tensor Core GPU" data sheet, 2023.
- [R] "NVIDIA Ada GPU Architecture" white paper v2.1, appendix A, GeForce RTX 4090.
- [X] openxla/xla, xla/backends/gpu/target_config/specs: what a driver says about such a
  GPU (cores, clock, caches, limits of a block, memory and its bandwidth).
- [G] "CUDA C++ Programming Guide", technical specifications per compute capability.
- [D] DGX A100, H100, H200 and B200 user guides: one network adapter per GPU, of 200
  Gb/s in an A100's, 400 Gb/s in the others.
- [M] memory that PyTorch reports in public logs ("has a total capacity of"): 139.8 GiB
  of an H200, 22.03 GiB of an L4, 23.64 GiB of an RTX 4090.
- [P] prices on demand per GPU as commonly quoted, of machines with 8 where there are:
  only the default of a flag.
"""

import dataclasses
import re
from collections.abc import Mapping

from llmjax.config import Quantization
from llmjax.parallel import memory
from llmjax.plan.cost.chips import GIB, quantized_speedup
from llmjax.train.metrics.flops import published_peak


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU of NVIDIA; rates are in FLOP/s and bytes/s, bandwidths in one direction.

    Attributes:
      name: the first part of a topology's name: "h100".
      device_kind: as jax prints it, and the driver.
      capability: compute capability, (major, minor).
      cores: streaming multiprocessors.
      clock: highest, in Hz.
      tf32_flops, fp32_flops: matmuls of float32, rounded to TF32 and not.
      int8_speedup, fp8_speedup: peak / bfloat16 peak; fp8 1.0 where there is none.
      hbm_bytes: nominal.
      memory_bytes: what the driver reports, thus what programs share.
      l2_bytes, shared_bytes: caches; shared memory of one core.
      block_bytes: shared memory of one block, at most.
      threads: of one core at a time.
      fp32_units: per core.
      nvlink_bandwidth: to the other GPUs of its host together; 0 where there is none.
      host_bandwidth: PCIe, to the host's memory, and to other GPUs without NVLink.
      network_bandwidth: the GPU's share of its host's network.
      per_host: GPUs of the usual machine.
      dollars_per_hour: default of --price.
    """

    name: str
    device_kind: str
    capability: tuple[int, int]
    cores: int
    clock: float
    tf32_flops: float
    fp32_flops: float
    int8_speedup: float
    fp8_speedup: float
    hbm_bytes: int
    memory_bytes: int
    hbm_bandwidth: float
    l2_bytes: int
    shared_bytes: int
    block_bytes: int
    threads: int
    fp32_units: int
    nvlink_bandwidth: float
    host_bandwidth: float
    network_bandwidth: float
    per_host: int
    dollars_per_hour: float

    devices = 1  # jax devices per GPU

    @property
    def bf16_flops(self) -> float:
        """Peak FLOP/s in bfloat16."""
        peak = published_peak(self.device_kind)
        assert peak is not None
        return peak

    @property
    def usable_hbm_bytes(self) -> int:
        """Bytes that a run may take: the share that jax keeps of the memory."""
        return int(self.memory_bytes * memory.share())

    @property
    def local_bandwidth(self) -> float:
        """Bytes/s to the other GPUs of its host: NVLink, or else PCIe."""
        return self.nvlink_bandwidth or self.host_bandwidth

    def speedup(self, quantization: Quantization) -> float:
        """Speedup of a step's quantized matmuls over bfloat16."""
        return quantized_speedup(self.int8_speedup, self.fp8_speedup, quantization)

    def target_config(self) -> str:
        """The GPU for XLA's compiler: a GpuTargetConfigProto as text."""
        major, minor = self.capability
        info = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": self.shared_bytes,
            "shared_memory_per_block_optin": self.block_bytes,
            "threads_per_core_limit": self.threads,
            "core_count": self.cores,
            "fpus_per_core": self.fp32_units,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536,
            "memory_bandwidth": int(self.hbm_bandwidth),
            "l2_cache_size": self.l2_bytes,
            "clock_rate_ghz": self.clock / 1e9,
            "device_memory_size": self.memory_bytes,
        }
        lines = [f"  {name}: {value}" for name, value in info.items()]
        return "\n".join(
            [
                "gpu_device_info {",
                *lines,
                f"  cuda_compute_capability {{ major: {major} minor: {minor} }}",
                "}",
                'platform_name: "CUDA"',
                "dnn_version_info { major: 9 minor: 10 patch: 2 }",
                "runtime_version { major: 12 minor: 9 }",
                f'device_description_str: "{self.device_kind}"',
            ]
        )


_A100 = Gpu(
    name="a100-80",
    device_kind="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    cores=108,  # [X]
    clock=1.41e9,  # [X]
    tf32_flops=156e12,  # [A]
    fp32_flops=19.5e12,  # [A]
    int8_speedup=2.0,  # [A] 624e12
    fp8_speedup=1.0,
    hbm_bytes=80 * GIB,  # [A]
    memory_bytes=85_100_068_864,  # [X]
    hbm_bandwidth=2.039e12,  # [A]
    l2_bytes=40 * 2**20,  # [X]
    shared_bytes=164 * 1024,  # [X, G]
    block_bytes=163 * 1024,  # [X, G]
    threads=2048,  # [G]
    fp32_units=64,  # [X]
    nvlink_bandwidth=600e9 / 2,  # [A] both directions
    host_bandwidth=64e9 / 2,  # [A] PCIe 4.0 x16, both directions
    network_bandwidth=200e9 / 8,  # [D]
    per_host=8,  # [D]
    dollars_per_hour=1.79,  # [P]
)
_H100 = Gpu(
    name="h100",
    device_kind="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    cores=132,  # [X]
    clock=1.98e9,  # [X]
    tf32_flops=989e12 / 2,  # [H]
    fp32_flops=67e12,  # [H]
    int8_speedup=2.0,  # [H] 1979e12
    fp8_speedup=2.0,  # [H] 1979e12
    hbm_bytes=80 * GIB,  # [H]
    memory_bytes=84_942_979_072,  # [X]
    hbm_bandwidth=3.35e12,  # [H]
    l2_bytes=50 * 2**20,  # [X]
    shared_bytes=228 * 1024,  # [X, G]
    block_bytes=227 * 1024,  # [X, G]
    threads=2048,  # [G]
    fp32_units=128,  # [X]
    nvlink_bandwidth=900e9 / 2,  # [H] both directions
    host_bandwidth=128e9 / 2,  # [H] PCIe 5.0 x16, both directions
    network_bandwidth=400e9 / 8,  # [D]
    per_host=8,  # [D]
    dollars_per_hour=2.99,  # [P]
)
GPUS = {
    gpu.name: gpu
    for gpu in (
        dataclasses.replace(
            _A100,
            name="a100-40",
            device_kind="NVIDIA A100-SXM4-40GB",
            hbm_bytes=40 * GIB,  # [A]
            memory_bytes=42_331_013_120,  # [X]
            hbm_bandwidth=1.555e12,  # [A]
            dollars_per_hour=1.29,  # [P]
        ),
        _A100,
        _H100,
        dataclasses.replace(
            _H100,
            name="h200",
            device_kind="NVIDIA H200",
            hbm_bytes=141 * 10**9,  # [H2]
            memory_bytes=int(139.8 * GIB),  # [M]
            hbm_bandwidth=4.8e12,  # [H2]
            dollars_per_hour=3.79,  # [P]
        ),
        Gpu(
            name="b200",
            device_kind="NVIDIA B200",
            capability=(10, 0),
            cores=148,  # [X]
            clock=1.965e9,  # [X]
            tf32_flops=2250e12 / 2,  # [B]
            fp32_flops=75e12,  # [B]
            int8_speedup=2.0,  # [B] 4500e12
            fp8_speedup=2.0,  # [B] 4500e12
            hbm_bytes=180 * 10**9,  # [B]
            memory_bytes=191_514_411_008,  # [X]
            hbm_bandwidth=7.672e12,  # [X]; [B] rounds to 8e12
            l2_bytes=132_644_864,  # [X]
            shared_bytes=228 * 1024,  # [X, G]
            block_bytes=227 * 1024,  # [X, G]
            threads=2048,  # [G]
            fp32_units=128,  # [X]
            nvlink_bandwidth=1.8e12 / 2,  # [B] both directions
            host_bandwidth=128e9 / 2,  # [B] PCIe 5.0 x16, both directions
            network_bandwidth=400e9 / 8,  # [D]
            per_host=8,  # [D]
            dollars_per_hour=4.99,  # [P]
        ),
        Gpu(
            name="l4",
            device_kind="NVIDIA L4",
            capability=(8, 9),
            cores=58,  # 7424 units of float32 [R, AD104 family] / 128
            clock=2.04e9,  # 30.3e12 [L] / 7424 / 2
            tf32_flops=60e12,  # [L]
            fp32_flops=30.3e12,  # [L]
            int8_speedup=2.0,  # [L] 242e12
            fp8_speedup=2.0,  # [L] 242e12
            hbm_bytes=24 * GIB,  # [L]
            memory_bytes=int(22.03 * GIB),  # [M]
            hbm_bandwidth=300e9,  # [L]
            l2_bytes=48 * 2**20,  # [R] of AD104
            shared_bytes=100 * 1024,  # [G]
            block_bytes=99 * 1024,  # [G]
            threads=1536,  # [G]
            fp32_units=128,  # [G]
            nvlink_bandwidth=0.0,  # [L]
            host_bandwidth=64e9 / 2,  # [L] PCIe 4.0 x16, both directions
            network_bandwidth=100e9 / 8 / 8,  # Google Cloud's g2-standard-96, for 8
            per_host=8,
            dollars_per_hour=0.71,  # [P]
        ),
        Gpu(
            name="rtx4090",
            device_kind="NVIDIA GeForce RTX 4090",
            capability=(8, 9),
            cores=128,  # [R]
            clock=2.52e9,  # [R]
            tf32_flops=82.6e12,  # [R]
            fp32_flops=82.6e12,  # [R]
            int8_speedup=660.6 / 165.2,  # [R]
            fp8_speedup=2.0,  # [R] 330.3e12, summed in float32
            hbm_bytes=24 * GIB,  # [R]
            memory_bytes=int(23.64 * GIB),  # [M]
            hbm_bandwidth=1008e9,  # [R]
            l2_bytes=72 * 2**20,  # [R]
            shared_bytes=100 * 1024,  # [G]
            block_bytes=99 * 1024,  # [G]
            threads=1536,  # [G]
            fp32_units=128,  # [G]
            nvlink_bandwidth=0.0,  # [R]
            host_bandwidth=64e9 / 2,  # PCIe 4.0 x16, both directions
            network_bandwidth=10e9 / 8 / 8,  # an assumption: 10 Gb/s for 8
            per_host=8,
            dollars_per_hour=0.69,  # [P]
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class GpuTopology:
    """`hosts` machines of `per_host` GPUs each, which the network connects."""

    chip: Gpu
    per_host: int
    hosts: int = 1

    platform = "cuda"
    num_slices = 1

    @property
    def chips(self) -> int:
        """GPUs of all hosts together."""
        return self.per_host * self.hosts

    @property
    def devices(self) -> int:
        """jax devices, one per GPU."""
        return self.chips

    @property
    def name(self) -> str:
        """Name that `parse` reads: "h100:8", "h100:8x16" for 16 hosts."""
        hosts = f"x{self.hosts}" if self.hosts > 1 else ""
        return f"{self.chip.name}:{self.per_host}{hosts}"

    @property
    def options(self) -> dict[str, object]:
        """Arguments for `topologies.get_topology_desc`."""
        return {
            "target_config": self.chip.target_config(),
            "topology": f"{self.hosts}x1x{self.per_host}",
        }

    def bandwidths(self, mesh: Mapping[str, int]) -> dict[str, float]:
        """Mesh axis, outermost first -> bytes/s that a GPU can send along it.

        Devices count along the innermost axis first. A ring over several hosts leaves
        each by as many network adapters as it has GPUs there, one each.
        """
        rates, stride = {}, 1
        for axis, size in reversed(list(mesh.items())):
            rates[axis] = self.chip.local_bandwidth
            if stride * size > self.per_host:
                adapters = max(1, self.per_host // stride)
                network = adapters * self.chip.network_bandwidth
                rates[axis] = min(rates[axis], network)
            stride *= size
        return rates


def parse(text: str) -> GpuTopology:
    """Parses a name as "h100:8", or "h100:8x16" for 16 hosts with 8 GPUs each.

    Raises:
      ValueError: an unknown GPU or shape; names those that are accepted.
    """
    match = re.fullmatch(r"([\w-]+):([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None or match[1] not in GPUS:
        raise ValueError(
            f"topology is {text!r}; it is GPU:COUNT, or GPU:COUNTxHOSTS, as h100:8 or "
            f"h100:8x16, with a GPU of {', '.join(GPUS)}"
        )
    gpu, per_host = GPUS[match[1]], int(match[2])
    if per_host > gpu.per_host:
        raise ValueError(
            f"topology is {text!r}; a host has at most {gpu.per_host} GPUs, so take "
            f"several: {gpu.name}:{gpu.per_host}xHOSTS"
        )
    return GpuTopology(gpu, per_host, int(match[3] or 1))
