"""FLOPs, bytes and seconds of the splash-attention kernels, from their shapes.

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
# Bytes that a 32-bit number of a query takes: over the lanes, or over sublanes.
ROW, COLUMN = 4 * 128, 4 * 8


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
class Blocks:
    """One call: so many T x S matrices of scores, each computed in blocks of q x k.

    Attributes:
      heads: matrices, of all rows and heads.
      H, V: width of queries and keys, and of values.
      causal: whether keys after the query are masked.
      window: a query sees keys less than `window` before it; None: all.
      itemsize: bytes of a value of queries, keys and values.
      sharing: heads of queries for each of keys.
      rows, columns: arrays of one 32-bit number a query (log-sum-exps, places,
        segments) that lie repeated 128 times in a row, or 8 times in a column.
      stepped: blocks of the grid; None: all, where the mask shortens no row of it.
    """

    heads: int
    T: int
    S: int
    H: int
    V: int
    q: int
    k: int
    causal: bool = True
    window: int | None = None
    itemsize: int = 2
    sharing: int = 1
    rows: int = 2
    columns: int = 0
    stepped: int | None = None

    @property
    def visited(self) -> int:
        """Blocks of a matrix that are computed: some query there may see some key."""
        return sum(
            _is_visible(
                i * self.q, self.q, j * self.k, self.k, self.causal, self.window
            )
            for i in range(self.T // self.q)
            for j in range(self.S // self.k)
        )

    @property
    def grid(self) -> int:
        """Blocks of a matrix that a kernel steps through."""
        return self.stepped or (self.T // self.q) * (self.S // self.k)


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """Cost of all executions of a call in one step, on one device.

    Attributes:
      kind: "forward", "dq", "dkv", "dkv+dq", or "unknown".
      visited_share: share of the score matrix that the kernel computes.
      flops: of its matmuls, over the visited blocks; NaN for an unknown kernel.
      hbm_bytes: read and written, with what is read again for each block; likewise.
      seconds: NaN for an unknown kernel.
    """

    call: CustomCall
    kind: str
    visited_share: float
    flops: float
    seconds: float
    hbm_bytes: float = math.nan


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
    tensors = [x for x in call.operands if re.match(r"(bf|f)\d+\[", x)]
    if kind == "unknown" or len(tensors) < 3:
        return KernelCost(call, "unknown", math.nan, math.nan, math.nan)
    (*leading, T, H), (*of_keys, S, _), (*_, V) = map(_shape, tensors[:3])
    q, k = _blocks(call, kind, T, S)
    blocks = Blocks(
        heads=math.prod(leading),
        T=T,
        S=S,
        H=H,
        V=V,
        q=q,
        k=k,
        causal=causal,
        window=window,
        itemsize=4 if tensors[0].startswith("f32") else 2,
        sharing=math.prod(leading) // math.prod(of_keys),
        rows=_count(call, T, 128) + (kind == "forward" and len(call.results) > 1),
        columns=_count(call, T),
        stepped=_grid_blocks(call),
    )
    return KernelCost(
        call=call,
        kind=kind,
        visited_share=blocks.visited * q * k / (T * S),
        flops=flops(kind, blocks) * call.calls,
        seconds=seconds(kind, blocks, chip) * call.calls,
        hbm_bytes=hbm_bytes(kind, blocks) * call.calls,
    )


def seconds(kind: str, blocks: Blocks, chip: Chip) -> float:
    """Time of one call: of its schedule, or of its bytes where these take longer."""
    schedule = _schedule(chip, kind)
    # a head larger than the MXU takes more
    passes = max(1.0, (blocks.H + blocks.V) / 2 / chip.mxu)
    q, k = blocks.q, blocks.k
    per_visited = schedule.per_score * q * k * passes + schedule.per_block_query * q
    cycles = blocks.heads * (
        blocks.visited * per_visited
        + blocks.grid * schedule.per_block
        + blocks.T * schedule.per_query
    )
    scheduled = cycles / chip.cores / chip.hertz
    return max(scheduled, hbm_bytes(kind, blocks) * chip.devices / chip.hbm_bandwidth)


def flops(kind: str, blocks: Blocks) -> float:
    """FLOPs of one call's matmuls, in the blocks that it computes."""
    scores = blocks.heads * blocks.visited * blocks.q * blocks.k
    return 2 * MATMULS[kind] * scores * (blocks.H + blocks.V) / 2


def hbm_bytes(kind: str, blocks: Blocks) -> float:
    """Bytes that one call moves between a device and its memory.

    Forward and dq stay with a block of queries, which they read and write once, and
    read keys and values again for each block that its queries see; dk and dv stay with
    a block of keys, and read queries, the result's gradients and their numbers again.
    The fused kernel writes a part of dq for each block of keys, in the queries' type,
    all of them whether visited or not; XLA sums the parts.
    """
    T, S, H, V = blocks.T, blocks.S, blocks.H, blocks.V
    w, visited = blocks.itemsize, blocks.visited
    numbers = ROW * blocks.rows + COLUMN * blocks.columns
    if kind in ("forward", "dq"):
        held = T * ((2 * H + V if kind == "dq" else H + V) * w + numbers)
        # one block of keys stays where it is
        again = blocks.k * (H + V) * w * (visited if blocks.k < S else 1)
        return float(blocks.heads * (held + again))
    kept = 2 * S * (H + V) * w / blocks.sharing
    per_query = (H + V) * w + numbers
    again = blocks.q * per_query * (visited if blocks.q < T else 1)
    parts = S // blocks.k * T * H * w if kind == "dkv+dq" else 0
    return float(blocks.heads * (kept + again + parts))


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


def _count(call: CustomCall, *last: int) -> int:
    """Operands of one number a query, whose last dimensions are these."""
    floats = [x for x in call.operands if x.startswith("f32[")]
    numbers = [x for x in call.operands if x.startswith("s32[")]
    if len(last) == 1:  # f32[..., T, 128] are queries
        numbers += floats
    return sum(_shape(x)[-len(last) :] == last for x in numbers)


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
