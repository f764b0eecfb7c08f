"""FLOPs and seconds of the splash-attention kernels, from their shapes.

The compiler estimates no cycles for Pallas kernels, but it schedules them. Compiled for
one chip with `LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true"`,
libtpu 0.0.52 writes every kernel's bundles (one a cycle) and which units each uses. The
numbers in `SCHEDULES` come from these dumps, for heads of 128 and blocks of 512 and
1024 (v5p's backward kernels and v6e's fused one: 512 only). No run was measured. They
show what bounds a kernel. With MXUs of 128 x 128 it is the matmuls: forward 1024 of
1494 cycles per block of 512 x 512. With 256 x 256, which heads of 128 fill by half, it
is the softmax as well: 2048 of 3675 cycles per block of 1024 x 1024.
"""

import dataclasses
import math
import re

from llmjax.plan.cost.chips import Chip
from llmjax.plan.hlo.summary import CustomCall

# Matmuls of [queries, keys, head] per block. Forward: q.k and p.v. Backward: q.k and
# do.v again, then dq; or dk and dv; or, fused, all three (Dao et al. 2022,
# arXiv:2205.14135).
MATMULS = {"forward": 2, "dq": 3, "dkv": 4, "dkv+dq": 5}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Cycles that a kernel takes on one core, as a sum of four terms."""

    per_score: float  # times (query, key) pairs of the visited blocks
    per_block_query: float  # times queries of the visited blocks
    per_block: float  # times blocks of the grid, visited or not
    per_query: float  # times queries


# side of the MXU -> kernel -> its schedule
SCHEDULES: dict[int, dict[str, Schedule]] = {
    128: {  # scheduled for v5p; a core of v4 and v5e has the same four MXUs
        "forward": Schedule(0.00483, 0.445, 295.0, 0.98),
        "dq": Schedule(0.00681, 0.0, 159.0, 0.22),
        "dkv": Schedule(0.00872, 0.0, 190.0, 0.40),
    },
    256: {  # scheduled for v6e; tpu7x's core is assumed to be the same
        "forward": Schedule(0.00299, 0.524, 190.0, 0.48),
        "dq": Schedule(0.00291, 0.625, 91.0, 0.13),
        "dkv": Schedule(0.00354, 0.954, 126.0, 0.24),
        "dkv+dq": Schedule(0.00459, 0.954, 140.0, 0.25),
    },
}


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """Cost of all executions of a call in one step, on one device.

    Attributes:
      kind: "forward", "dq", "dkv", "dkv+dq", or "unknown".
      visited_share: share of the score matrix that the kernel computes.
      flops: of its matmuls, over the visited blocks; NaN for an unknown kernel.
      seconds: NaN for an unknown kernel.
    """

    call: CustomCall
    kind: str
    visited_share: float
    flops: float
    seconds: float


def cost(
    call: CustomCall, chip: Chip, causal: bool = True, window: int | None = None
) -> KernelCost:
    """Estimates the cost of a kernel's calls.

    A block whose keys the mask hides from all of its queries is not computed.

    Args:
      call: any Pallas call; only splash attention's kernels have a cost model.
      chip: the chip that runs it.
      causal: whether keys after the query are masked.
      window: a query sees keys less than `window` before it; None: all.
    """
    kind = _kind(call)
    tensors = [_shape(x) for x in call.operands if re.match(r"(bf|f)\d+\[", x)]
    if kind == "unknown" or len(tensors) < 3:
        return KernelCost(call, "unknown", math.nan, math.nan, math.nan)
    (*leading, T, H), (*_, S, _), (*_, V) = tensors[:3]
    heads = math.prod(leading)
    q, k = _blocks(call, kind, T, S)
    visited = sum(
        _is_visible(i * q, q, j * k, k, causal, window)
        for i in range(T // q)
        for j in range(S // k)
    )
    blocks = _grid_blocks(call) or (T // q) * (S // k)
    schedule = _schedule(chip, kind)
    passes = max(1.0, (H + V) / 2 / chip.mxu)  # a head larger than the MXU takes more
    per_visited = schedule.per_score * q * k * passes + schedule.per_block_query * q
    cycles = heads * (
        visited * per_visited + blocks * schedule.per_block + T * schedule.per_query
    )
    flops = 2 * MATMULS[kind] * visited * q * k * (H + V) / 2 * heads
    return KernelCost(
        call=call,
        kind=kind,
        visited_share=visited * q * k / (T * S),
        flops=float(flops * call.calls),
        seconds=cycles / chip.cores / chip.hertz * call.calls,
    )


def _kind(call: CustomCall) -> str:
    """`KernelCost.kind`; the fused kernel has dq among its results."""
    match = re.search(r"splash_m[hq]a_(fwd|dq|dkv)", call.kernel)
    if match is None:
        return "unknown"
    fused = match.group(1) == "dkv" and len(call.results) > 2
    return {"fwd": "forward", "dq": "dq", "dkv": "dkv+dq" if fused else "dkv"}[
        match.group(1)
    ]


def _schedule(chip: Chip, kind: str) -> Schedule:
    """The schedule of a kernel.

    The fused backward kernel, where `SCHEDULES` lacks it, is taken as 5/7 of the other
    two together, the ratio of their matmuls (on v6e 6 % more than its own schedule).
    """
    table = SCHEDULES[chip.mxu]
    if kind in table:
        return table[kind]
    terms = zip(*map(dataclasses.astuple, (table["dq"], table["dkv"])), strict=True)
    return Schedule(*(sum(term) * 5 / 7 for term in terms))


def _shape(text: str) -> tuple[int, ...]:
    """ "bf16[4,128]" -> (4, 128)."""
    return tuple(int(n) for n in text[text.index("[") + 1 : -1].split(",") if n)


def _blocks(call: CustomCall, kind: str, T: int, S: int) -> tuple[int, int]:
    """Queries and keys per block: noted by the kernel, else from its mask's grid."""
    suffix = {"forward": "", "dq": "_dq"}.get(kind, "_dkv")
    noted = dict(call.blocks)
    q, k = noted.get(f"block_q{suffix}"), noted.get(f"block_kv{suffix}")
    if q and k:
        return q, k
    grid = _shape(call.operands[0])
    return T // grid[-2], S // grid[-1]


def _grid_blocks(call: CustomCall) -> int | None:
    """Blocks that the kernel steps through; None unless its first operand is a mask."""
    first = call.operands[0]
    return math.prod(_shape(first)[-2:]) if re.match(r"[su]\d+\[", first) else None


def _is_visible(
    i: int, q: int, j: int, k: int, causal: bool, window: int | None
) -> bool:
    """Whether the mask lets any query in [i, i+q) see any key in [j, j+k)."""
    last_key, last_query = j + k - 1, i + q - 1
    if causal and j > last_query:
        return False
    if window is None:
        return True
    if last_key <= i - window:
        return False
    return causal or j < last_query + window
