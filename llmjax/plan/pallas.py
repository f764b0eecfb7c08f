"""FLOPs and seconds of splash attention's kernels, from their shapes.

The compiler gives kernels written in Pallas no cycles, but it schedules them: compiled
for one chip with `LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true"`,
libtpu 0.0.52 writes every kernel's bundles (one a cycle) and which units each uses. The
numbers of `SCHEDULES` are read off there, for heads of 128 and blocks of 512 and 1024
(v5p's backward and v6e's fused one: 512 alone); no run is behind them. They say what
bounds a kernel: with 128 x 128 MXUs the matmuls (forward 1024 of 1494 cycles a block of
512 x 512); with 256 x 256, which heads of 128 fill by half, the softmax as well (2048
of 3675 a block of 1024 x 1024).
"""

import dataclasses
import math
import re

from llmjax.plan.chips import Chip
from llmjax.plan.summary import CustomCall

# Matmuls of [queries, keys, head] per block: q.k and p.v; in the backward pass q.k and
# do.v again, then dq, or dk and dv, or (fused) all three (Dao et al. 2022,
# arXiv:2205.14135).
MATMULS = {"forward": 2, "dq": 3, "dkv": 4, "dkv+dq": 5}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Cycles of one core: of a visited block `score` per query and key and `line` per
    query; `step` per block of the grid, visited or not; `row` per query and head."""

    score: float
    line: float
    step: float
    row: float


# by the MXU's side, then by kernel
SCHEDULES: dict[int, dict[str, Schedule]] = {
    128: {  # v5p; a core of v4 and v5e has the same four MXUs
        "forward": Schedule(0.00483, 0.445, 295.0, 0.98),
        "dq": Schedule(0.00681, 0.0, 159.0, 0.22),
        "dkv": Schedule(0.00872, 0.0, 190.0, 0.40),
    },
    256: {  # v6e; tpu7x's core taken as alike
        "forward": Schedule(0.00299, 0.524, 190.0, 0.48),
        "dq": Schedule(0.00291, 0.625, 91.0, 0.13),
        "dkv": Schedule(0.00354, 0.954, 126.0, 0.24),
        "dkv+dq": Schedule(0.00459, 0.954, 140.0, 0.25),
    },
}


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """Of all of a call's executions in a step, on one device.

    Attributes:
      kind: "forward", "dq", "dkv", "dkv+dq", or "unknown".
      visited: share of the score matrix that it computes.
      flops: of its matmuls over the visited blocks; NaN where unknown.
      seconds: NaN where unknown.
    """

    call: CustomCall
    kind: str
    visited: float
    flops: float
    seconds: float


def cost(
    call: CustomCall, chip: Chip, causal: bool = True, window: int | None = None
) -> KernelCost:
    """What one kernel's calls should take.

    Args:
      call: any Pallas call; splash attention's are known.
      chip: what runs it.
      causal: whether a query sees no later key; blocks that no query of theirs sees
        are not computed.
      window: keys less than so far back are seen; None: all.
    """
    kind = _kind(call)
    tensors = [_shape(x) for x in call.operands if re.match(r"(bf|f)\d+\[", x)]
    if kind == "unknown" or len(tensors) < 3:
        return KernelCost(call, "unknown", math.nan, math.nan, math.nan)
    (*leading, T, H), (*_, S, _), (*_, V) = tensors[:3]
    heads = math.prod(leading)
    q, k = _blocks(call, kind, T, S)
    visited = sum(
        _sees(i * q, q, j * k, k, causal, window)
        for i in range(T // q)
        for j in range(S // k)
    )
    steps = _grid(call) or (T // q) * (S // k)
    schedule = _schedule(chip, kind)
    fills = max(1.0, (H + V) / 2 / chip.mxu)  # larger heads take more passes
    cycles = heads * (
        visited * (schedule.score * q * k * fills + schedule.line * q)
        + steps * schedule.step
        + T * schedule.row
    )
    flops = 2 * MATMULS[kind] * visited * q * k * (H + V) / 2 * heads
    return KernelCost(
        call=call,
        kind=kind,
        visited=visited * q * k / (T * S),
        flops=float(flops * call.calls),
        seconds=cycles / chip.cores / chip.hertz * call.calls,
    )


def _kind(call: CustomCall) -> str:
    match = re.search(r"splash_m[hq]a_(fwd|dq|dkv)", call.kernel)
    if match is None:
        return "unknown"
    fused = match.group(1) == "dkv" and len(call.results) > 2
    return {"fwd": "forward", "dq": "dq", "dkv": "dkv+dq" if fused else "dkv"}[
        match.group(1)
    ]


def _schedule(chip: Chip, kind: str) -> Schedule:
    """Of the fused backward kernel where it was not scheduled: five sevenths of the two
    others together, as of their matmuls (on v6e that is 6 % more than scheduled)."""
    table = SCHEDULES[chip.mxu]
    if kind in table:
        return table[kind]
    both = zip(*map(dataclasses.astuple, (table["dq"], table["dkv"])), strict=True)
    return Schedule(*(sum(x) * 5 / 7 for x in both))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text[text.index("[") + 1 : -1].split(",") if n)


def _blocks(call: CustomCall, kind: str, T: int, S: int) -> tuple[int, int]:
    """Sizes of a block of queries and of keys: as the kernel notes them, else by the
    grid of its mask."""
    suffix = {"forward": "", "dq": "_dq"}.get(kind, "_dkv")
    noted = dict(call.blocks)
    q, k = noted.get(f"block_q{suffix}"), noted.get(f"block_kv{suffix}")
    if q and k:
        return q, k
    grid = _shape(call.operands[0])
    return T // grid[-2], S // grid[-1]


def _grid(call: CustomCall) -> int | None:
    """Blocks that the kernel steps through, if its first operand tells."""
    first = call.operands[0]
    return math.prod(_shape(first)[-2:]) if re.match(r"[su]\d+\[", first) else None


def _sees(i: int, q: int, j: int, k: int, causal: bool, window: int | None) -> bool:
    """Whether any of queries i..i+q sees any of keys j..j+k."""
    last_key, last_query = j + k - 1, i + q - 1
    if causal and j > last_query:
        return False
    if window is None:
        return True
    if last_key <= i - window:
        return False
    return causal or j < last_query + window
