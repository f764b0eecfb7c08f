"""FLOPs and seconds of cuDNN's fused attention, from what its call says.

Rates are what Shah et al. 2024, "FlashAttention-3" (arXiv:2407.08608), measured of
cuDNN 9 on an H100 SXM5 (figures 5 and 6: 16384 tokens, 16 bits), in FLOP/s of the
visible half where the mask is causal. The paper has no causal backward pass: it is
taken to lose what the forward pass loses. FLOPs: two matmuls forward, five backward
(Dao et al. 2022, arXiv:2205.14135).
"""

import json
import math
import re

import numpy as np

from llmjax.plan.cost.gpus import Gpu
from llmjax.plan.hlo.matmuls import target
from llmjax.plan.hlo.module import Computation, Instruction

_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
_H100 = 989e12
# (pass, size of a head) -> TFLOP/s by length, no mask
_RATES = {
    ("forward", 64): (335, 373, 395, 408, 412, 413),
    ("forward", 128): (497, 574, 617, 609, 600, 595),
    ("backward", 64): (266, 348, 395, 395, 395, 395),  # read up to 2048
    ("backward", 128): (305, 408, 465, 499, 518, 516),
}
_CAUSAL_FORWARD = (315, 410, 484, 518, 529, 539)  # heads of 128
# Share of the peak on GPUs before Hopper: Dao 2023, "FlashAttention-2"
# (arXiv:2307.08691), up to 73 % forward and 63 % backward on an A100.
_BEFORE_HOPPER = {"forward": 0.73, "backward": 0.63}


def is_attention(instruction: Instruction) -> bool:
    """Whether the instruction calls cuDNN's fused attention."""
    return target(instruction).startswith("__cudnn$fmha")


def kind(instruction: Instruction) -> str:
    """ "forward" or "backward"."""
    return "backward" if "Backward" in target(instruction) else "forward"


def visible(instruction: Instruction) -> float:
    """Share of the score matrix that the mask's type leaves to compute.

    A mask that comes as an array of biases hides nothing from the kernel.
    """
    *_, T, S = _scores(instruction)
    if "CAUSAL" not in _text(instruction, "mask_type"):
        return 1.0
    window = int(_text(instruction, "sliding_window_length") or 0) or T
    seen = sum(min(i + 1, window) for i in range(T))
    return min(1.0, seen / (T * S))


def flops(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of one execution."""
    scores = math.prod(_scores(instruction)) * visible(instruction)
    q, _, v = (computation[x].arrays[0] for x in instruction.operands[:3])
    forward = 2 * scores * (q.dims[-1] + v.dims[-1])
    return forward * (2.5 if kind(instruction) == "backward" else 1.0)


def seconds(computation: Computation, instruction: Instruction, gpu: Gpu) -> float:
    """Time of one execution on the matrix units, without launch and memory."""
    q = computation[instruction.operands[0]].arrays[0]
    T = _scores(instruction)[2]
    share = _share(kind(instruction), T, q.dims[-1], visible(instruction) < 1, gpu)
    speedup = gpu.fp8_speedup if q.dtype.startswith("f8") else 1.0
    return flops(computation, instruction) / (gpu.bf16_flops * speedup * share)


def _share(way: str, T: int, head: int, causal: bool, gpu: Gpu) -> float:
    """Share of the GPU's peak that the kernel reaches."""

    def at(rates: tuple[int, ...]) -> float:
        return float(np.interp(math.log2(T), [math.log2(t) for t in _LENGTHS], rates))

    rates = _RATES[way, 64 if head <= 64 else 128]
    share = at(rates) * 1e12 / _H100
    if causal:
        share *= at(_CAUSAL_FORWARD) / at(_RATES["forward", 128])
    if gpu.capability[0] < 9:
        share *= _BEFORE_HOPPER[way] * _H100 / (max(rates) * 1e12)
    return share


def _scores(instruction: Instruction) -> tuple[int, ...]:
    """[rows, heads, queries, keys] of the scores, which never leave the kernel."""
    noted = re.search(
        r'"intermediate_tensor_shape":\s*\{.*?"dimensions":\s*(\[[^\]]*\])',
        instruction.rest,
    )
    assert noted is not None
    return tuple(int(n) for n in json.loads(noted.group(1)))


def _text(instruction: Instruction, key: str) -> str:
    """A value of the call's configuration; "" where it has none."""
    noted = re.search(rf'"{key}":\s*"?([\w.]+)', instruction.rest)
    return noted.group(1) if noted else ""
