"""Seconds of a matmul on a GPU.

The library that runs it (cuBLAS or a kernel of Triton, chosen by XLA's autotuning on
the GPU itself, whatever the text names) cuts the result into tiles, one per core at a
time, and the last wave of tiles leaves cores idle: "Matrix Multiplication Background
User's Guide", NVIDIA, sections 4 and 5,
https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication.
Even full waves don't reach the published peak, which the clock does not hold under the
limit of power. What they reach was measured by Bekman, "Machine Learning Engineering",
https://github.com/stas00/ml-engineering, compute/accelerator, "Maximum Achievable
Matmul FLOPS", as the best of many shapes: none did better.
"""

import math

from llmjax.plan.cost.gpus import Gpu
from llmjax.plan.hlo.matmuls import Matmul

# The guide's tiles of cuBLAS, the most efficient first. The smaller ones serve results
# that have fewer large tiles than there are cores.
TILES = ((256, 128), (128, 256), (128, 128))
SMALL_TILES = ((256, 64), (64, 256), (128, 64), (64, 128), (64, 64))

# (major compute capability, bits) -> FLOP/s measured / published.
_SUSTAINED = {
    (8, 16): 271.2 / 312,  # A100 SXM
    (9, 16): 794.5 / 989,  # H100 SXM
    (9, 8): 1402.6 / 1979,
    (10, 16): 1745.0 / 2250,  # B200 SXM
}


def seconds(matmul: Matmul, gpu: Gpu) -> float:
    """Time of one execution on the matrix units, without launch and memory."""
    used = filled(matmul.m, matmul.n, matmul.batch, gpu.cores)
    return matmul.flops / (peak(matmul, gpu) * sustained(matmul, gpu) * used)


def peak(matmul: Matmul, gpu: Gpu) -> float:
    """Published FLOP/s of the matrix units for the operands' type."""
    if matmul.dtype.startswith("f8"):
        return gpu.bf16_flops * gpu.fp8_speedup
    if matmul.dtype in ("s8", "u8"):
        return gpu.bf16_flops * gpu.int8_speedup
    if matmul.dtype in ("bf16", "f16"):
        return gpu.bf16_flops
    return gpu.fp32_flops if matmul.exact else gpu.tf32_flops


def sustained(matmul: Matmul, gpu: Gpu) -> float:
    """Share of the peak that full waves reach.

    Of types and GPUs that were not measured: 16 bits on the same GPU, and an A100's.
    """
    major = gpu.capability[0]
    bits = 8 if matmul.dtype.startswith("f8") else 16
    near = ((major, bits), (major, 16), (8, 16))
    return next(_SUSTAINED[key] for key in near if key in _SUSTAINED)


def filled(m: int, n: int, batch: int, cores: int) -> float:
    """Share of the cores' work in all waves that belongs to the result.

    With the best tile: rows and columns are rounded up to it, tiles to whole waves.
    """
    large = math.ceil(m / 256) * math.ceil(n / 128) * batch
    tiles = TILES if large >= cores else TILES + SMALL_TILES

    def share(rows: int, columns: int) -> float:
        count = math.ceil(m / rows) * math.ceil(n / columns) * batch
        waves = math.ceil(count / cores)
        return batch * m * n / (waves * cores * rows * columns)

    return max(share(*tile) for tile in tiles)
