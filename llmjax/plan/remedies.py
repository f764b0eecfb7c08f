"""What to change when a step does not fit: the cheapest first, each confirmed."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from llmjax.config import Activations, FullRemat, NamesRemat, NoRemat, RunConfig
from llmjax.plan import estimate
from llmjax.plan.changes import Change, changed
from llmjax.plan.compile import Compiled, compile_step
from llmjax.plan.estimate import Size

ENOUGH = 2  # remedies that fit
TRIES = 6  # compiles
# What remat keeps, from little computed again to much.
KEPT: tuple[tuple[Activations, ...], ...] = (
    ("query", "key", "value", "context", "out"),
    ("query", "key", "value", "context"),
    ("context",),
)


@dataclasses.dataclass(frozen=True)
class Remedy:
    """One change of the layout, and what it would cost.

    Attributes:
      why: in words.
      slower: predicted step over the present one's.
      predicted: bytes per chip.
    """

    change: Change
    why: str
    slower: float
    predicted: int


@dataclasses.dataclass(frozen=True)
class Tried:
    """A remedy and the compiler's verdict: bytes per chip, and whether they are there.

    `error` says why it could not be built at all.
    """

    remedy: Remedy
    fits: bool
    needed: int
    seconds: float
    error: str = ""


def find(
    failed: Compiled,
    enough: int = ENOUGH,
    tries: int = TRIES,
    compiler: Callable[..., Compiled] = compile_step,
) -> list[Tried]:
    """Tries remedies in the order of their cost until `enough` of them fit."""
    found: list[Tried] = []
    for remedy in plausible(failed)[:tries]:
        if sum(tried.fits for tried in found) == enough:
            break
        try:
            verdict = compiler(changed(failed.config, remedy.change), failed.topology)
        except ValueError as e:
            found.append(Tried(remedy, False, 0, 0.0, str(e)))
            continue
        seconds = verdict.seconds.compile or 0.0
        found.append(Tried(remedy, verdict.fits, verdict.needed, seconds))
    return found


def plausible(failed: Compiled) -> list[Remedy]:
    """Remedies that should fit by the estimate, the cheapest first.

    The estimate is scaled to what the compiler said of the present layout. Where no
    single change should do, two are taken together; where those don't either, what
    saves most comes first.
    """
    config, topology = failed.config, failed.topology
    size = Size.of(failed.program)
    mesh = estimate.mesh_sizes(config.layout, topology.devices)
    now = estimate.estimate(config, topology, size, mesh)
    scale = failed.needed / now.bytes

    def remedy(change: dict[str, Any], why: str) -> Remedy | None:
        try:
            after = changed(config, change)
            sizes = estimate.mesh_sizes(after.layout, topology.devices)
            found = estimate.estimate(after, topology, size, sizes)
        except ValueError:
            return None
        if found.bytes >= now.bytes:
            return None
        slower = found.seconds / now.seconds
        return Remedy(change, why, slower, int(found.bytes * scale))

    single = list(candidates(config, mesh))
    pairs = [
        ({**a, **b}, f"{x}, and {y}")
        for i, (a, x) in enumerate(single)
        for b, y in single[i + 1 :]
        if not set(a) & set(b)
    ]
    for changes in (single, pairs):
        remedies = [r for r in (remedy(*c) for c in changes) if r is not None]
        fitting = [r for r in remedies if r.predicted <= failed.available]
        if fitting:
            return sorted(fitting, key=lambda r: (r.slower, r.predicted))
    return sorted(remedies, key=lambda r: r.predicted)


def candidates(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Every single change that can save memory, and its name in words."""
    yield from _of_remat(config)
    yield from _of_time(config, mesh)
    yield from _of_place(config, mesh)


def _of_remat(config: RunConfig) -> Iterator[tuple[dict[str, Any], str]]:
    remat = config.layout.remat
    named = remat if isinstance(remat, NamesRemat) else NamesRemat()
    for names in KEPT:
        if isinstance(remat, NoRemat) or set(names) < set(named.saved):
            change = {"remat": NamesRemat(names)}
            yield change, f"keep only {', '.join(names)} of a layer"
    if not isinstance(remat, FullRemat):
        yield {"remat": FullRemat()}, "keep only the input of a layer"
    if not named.offloaded:
        rest = tuple(name for name in named.saved if name != "input")
        offload = {"remat": NamesRemat(rest, ("input",))}
        yield offload, "bring the inputs of layers to the host"


def _of_time(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], str]]:
    layout = config.layout
    rows = config.data.batch_size // (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    for factor in (2, 4, 8):
        count = layout.microbatches * factor
        if rows % count == 0:
            yield {"microbatches": count}, f"the batch in {count} parts"
    for block in (512, 256, 128):
        if block < min(layout.loss_block, config.data.seq_len):
            yield {"loss_block": block}, f"logits of {block} positions at a time"


def _of_place(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], str]]:
    layout = config.layout
    if mesh["data"] > layout.slices:
        whole = mesh["data"] // layout.slices * mesh["fsdp"]
        sharded = {"data": layout.slices, "fsdp": whole}
        yield sharded, "cut the weights over all chips (fsdp)"
    if mesh["data"] > 1 and layout.optimizer_sharding == "weights":
        yield {"optimizer_sharding": "data"}, "cut the optimizer over `data` (ZeRO-1)"
    for axis, limit in (("tensor", config.model.K), ("sequence", 8)):
        count = mesh[axis] * 2
        source = next((a for a in ("fsdp", "data") if mesh[a] % 2 == 0), None)
        if source is not None and limit % count == 0:
            moved = {**mesh, axis: count, source: mesh[source] // 2}
            fields = layout.mesh_fields(moved)
            yield fields, f"{axis}={count} instead of {source}={mesh[source]}"
    if layout.optimizer_memory == "device":
        yield {"optimizer_memory": "host"}, "keep the optimizer in the host's memory"
    if layout.masters == "float32":
        yield {"masters": "bfloat16"}, "weights of bfloat16, rounded at random"
