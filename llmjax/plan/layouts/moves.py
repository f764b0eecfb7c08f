"""Single changes of a layout that may make it faster, for a search to compile.

They leave batch, sequence, precision and quantization as they are: the run's
mathematics stays the same. What a formula can tell, it orders: recomputation by
`estimate`, blocks of attention by `splash`. Only the compiler knows about the rest.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from llmjax.config import (
    Gather,
    NamesRemat,
    NoRemat,
    Ring,
    RunConfig,
    SplashAttention,
    Ulysses,
)
from llmjax.plan.cost import estimate, splash
from llmjax.plan.cost.chips import Chip
from llmjax.plan.cost.estimate import NAMES, Size
from llmjax.plan.cost.topologies import Topology
from llmjax.plan.layouts.changes import Change, changed
from llmjax.plan.layouts.options import options

BLOCKS = (256, 512, 1024, 2048)  # of queries and keys, a power of two of 128
LOSS_BLOCKS = (128, 256, 512, 1024, 2048)


@dataclasses.dataclass(frozen=True)
class Move:
    """A change of a layout.

    Attributes:
      kind: what it varies: moves of one kind are alternatives.
      why: the change in words.
      gain: seconds of a step that it saves by formula; 0.0 where only a compile tells.
      bytes: estimated, per chip.
    """

    kind: str
    change: Change
    why: str
    gain: float
    bytes: int


# The order in which kinds are tried.
KINDS = (
    "compiler option",
    "attention blocks",
    "fused backward",
    "remat",
    "copies",
    "offload",
    "microbatches",
    "loss block",
    "unroll",
    "context",
)

FORESEEN = ("attention blocks", "fused backward", "remat")  # by a formula


def moves(config: RunConfig, topology: Topology, size: Size) -> list[Move]:
    """Changes of one layout: in the order of `KINDS`, of each the best first.

    A change is left out that the run refuses, or that saves nothing by a formula.
    """
    devices = topology.devices
    mesh = estimate.mesh_sizes(config.layout, devices)
    before = estimate.seconds(config, topology, size, mesh)
    found: list[Move] = []
    for kind, change, why in _changes(config, topology, mesh):
        try:
            after = changed(config, change)
            sizes = estimate.mesh_sizes(after.layout, devices)
            then = estimate.estimate(after, topology, size, sizes)
        except ValueError:
            continue
        gain = 0.0
        if kind == "remat":
            gain = before - then.seconds
        elif kind in ("attention blocks", "fused backward"):
            gain = _attention_gain(config, after, topology, mesh)
        if kind in FORESEEN and gain <= 0:
            continue
        found.append(Move(kind, change, why, gain, then.bytes))
    return sorted(found, key=lambda move: (KINDS.index(move.kind), -move.gain))


def _attention_gain(
    before: RunConfig, after: RunConfig, topology: Topology, mesh: dict[str, int]
) -> float:
    chip = topology.chip
    assert isinstance(chip, Chip)
    return splash.seconds(before, chip, mesh) - splash.seconds(after, chip, mesh)


def _changes(
    config: RunConfig, topology: Topology, mesh: dict[str, int]
) -> Iterator[tuple[str, Change, str]]:
    """(kind, change, in words) of every move."""
    layout = config.layout
    for option in options(config, topology):
        together = option.added(layout.compiler_options)
        if set(together) != set(layout.compiler_options):
            yield "compiler option", {"compiler_options": together}, option.what
    if topology.platform == "tpu" and isinstance(layout.attention, SplashAttention):
        yield from _attention(layout.attention, config.data.seq_len)
    yield from _remat(config)
    yield from _copies(config, mesh)
    yield from _sizes(config, mesh)
    yield from _context(config, mesh)


def _attention(own: SplashAttention, T: int) -> Iterator[tuple[str, Change, str]]:
    blocks = [b for b in BLOCKS if b <= T]
    for q, k in itertools.product(blocks, blocks):
        if (q, k) != (own.block_q, own.block_kv):
            attention = dataclasses.replace(own, block_q=q, block_kv=k)
            why = f"attention in blocks of {q} queries and {k} keys"
            yield "attention blocks", {"attention": attention}, why
    other = dataclasses.replace(own, fused_backward=not own.fused_backward)
    how = "one kernel" if other.fused_backward else "two kernels"
    yield "fused backward", {"attention": other}, f"attention's gradients by {how}"


def _remat(config: RunConfig) -> Iterator[tuple[str, Change, str]]:
    """More kept, on the device or in the host; or less, where that was no gain.

    Of activations that the model's layers have, or a change would change nothing.
    """
    remat = config.layout.remat
    if isinstance(remat, NoRemat):
        return
    named = remat if isinstance(remat, NamesRemat) else NamesRemat()
    saved, offloaded = named.saved, named.offloaded
    widths = estimate.widths(config.layout, config.model, 1)
    known = {*saved, *offloaded, "input", "down"}
    left = [name for name in NAMES if name not in known and widths[name]]
    for count in (1, 2, 3):
        for names in itertools.combinations(left, count):
            more = NamesRemat((*saved, *names), offloaded)
            yield "remat", {"remat": more}, f"keep {', '.join(names)} too"
    if left and not offloaded:
        yield "remat", {"remat": NoRemat()}, "keep every activation"
    for name in left:
        away = NamesRemat(saved, (*offloaded, name))
        yield "offload", {"remat": away}, f"bring {name} to the host"
    if "input" not in offloaded:
        for name in left:
            away = NamesRemat((*saved, name), (*offloaded, "input"))
            why = f"bring the inputs of layers to the host, keep {name} instead"
            yield "offload", {"remat": away}, why
    for name in saved:
        less = NamesRemat(tuple(n for n in saved if n != name), offloaded)
        yield "offload", {"remat": less}, f"compute {name} again"


def _copies(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[str, Change, str]]:
    """Weights gathered among fewer devices, for their sums over more of them.

    Where a compiler gathers over a whole torus by a sum, this is what avoids it.
    """
    for count in (2, 4):
        if mesh["fsdp"] % count == 0:
            sizes = {"data": mesh["data"] * count, "fsdp": mesh["fsdp"] // count}
            fields = {**sizes, "optimizer_sharding": "data"}
            why = f"{sizes['data']} copies of the weights, one optimizer"
            yield "copies", fields, why


def _sizes(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[str, Change, str]]:
    layout = config.layout
    rows = config.data.batch_size // (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    for count in (layout.microbatches // 2, layout.microbatches * 2):
        if count and rows % count == 0:
            yield "microbatches", {"microbatches": count}, f"the batch in {count} parts"
    near = [b for b in LOSS_BLOCKS if b <= config.data.seq_len]
    for block in near:
        if block != layout.loss_block and block / layout.loss_block in (0.5, 2):
            why = f"logits of {block} positions at a time"
            yield "loss block", {"loss_block": block}, why
    for count in (layout.unroll * 2, layout.unroll // 2):
        if count and config.model.layers[0].repeat % count == 0:
            why = f"{count} layers in an iteration of the loop"
            yield "unroll", {"unroll": count}, why


def _context(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[str, Change, str]]:
    """Where a mesh has the axis that they are about."""
    own = config.layout.context
    if mesh["sequence"] > 1:
        for kind, what in (
            (Gather, "devices of a row gather its keys"),
            (Ring, "keys of a row travel from device to device"),
            (Ulysses, "devices of a row change tokens for heads"),
        ):
            if not isinstance(own, kind):
                change = {"context": kind(sequence_parallel=own.sequence_parallel)}
                yield "context", change, what
    if mesh["tensor"] > 1:
        other = dataclasses.replace(own, sequence_parallel=not own.sequence_parallel)
        where = "lie over tensor too" if other.sequence_parallel else "are whole"
        yield "context", {"context": other}, f"tokens between branches {where}"
