"""Changes that make a step fit, the cheapest first, each confirmed by a compile."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from llmjax.config import (
    Activations,
    BFloat16,
    FullRemat,
    NamesRemat,
    NoRemat,
    RunConfig,
)
from llmjax.plan.compiler.compile import Compiled, compile_step
from llmjax.plan.cost import estimate
from llmjax.plan.cost.estimate import Size
from llmjax.plan.layouts.changes import Change, changed

ENOUGH = 2  # remedies that fit, then the search ends
TRIES = 6  # compiles at most
# Activations that remat keeps, from little recomputation to much.
KEPT: tuple[tuple[Activations, ...], ...] = (
    ("query", "key", "value", "context", "out"),
    ("query", "key", "value", "context"),
    ("context",),
)


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A change of the layout that saves memory, and its estimated cost.

    Attributes:
      why: the change in words.
      slower: estimated seconds of the step / those of the present one.
      predicted_bytes: bytes per chip.
    """

    change: Change
    why: str
    slower: float
    predicted_bytes: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """A remedy that was compiled, and the result."""

    remedy: Remedy
    fits: bool
    needed: int  # bytes per device
    seconds: float  # of the compile
    error: str = ""  # why it could not be built at all


def find(
    failed: Compiled,
    enough: int = ENOUGH,
    tries: int = TRIES,
    compiler: Callable[..., Compiled] = compile_step,
) -> list[Trial]:
    """Compiles remedies in the order of their cost until `enough` of them fit."""
    trials: list[Trial] = []
    for remedy in plausible(failed)[:tries]:
        if sum(trial.fits for trial in trials) == enough:
            break
        try:
            compiled = compiler(changed(failed.config, remedy.change), failed.topology)
        except ValueError as e:
            trials.append(Trial(remedy, False, 0, 0.0, str(e)))
            continue
        seconds = compiled.seconds.compile or 0.0
        trials.append(Trial(remedy, compiled.fits, compiled.needed, seconds))
    return trials


def plausible(failed: Compiled) -> list[Remedy]:
    """Remedies that should fit by the estimate, the cheapest first.

    The estimate is scaled so that it agrees with the compiler on the present layout.
    Where no single change is enough, pairs of changes are returned; where no pair is
    either, all of them, those that save most first.
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
            then = estimate.estimate(after, topology, size, sizes)
        except ValueError:
            return None
        if then.bytes >= now.bytes:
            return None
        slower = then.seconds / now.seconds
        return Remedy(change, why, slower, int(then.bytes * scale))

    single = list(candidates(config, mesh))
    pairs = [
        ({**a, **b}, f"{x}, and {y}")
        for i, (a, x) in enumerate(single)
        for b, y in single[i + 1 :]
        if not set(a) & set(b)
    ]
    for changes in (single, pairs):
        remedies = [r for r in (remedy(*c) for c in changes) if r is not None]
        fitting = [r for r in remedies if r.predicted_bytes <= failed.available]
        if fitting:
            return sorted(fitting, key=lambda r: (r.slower, r.predicted_bytes))
    return sorted(remedies, key=lambda r: r.predicted_bytes)


def candidates(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Every single change that can save memory, with its description."""
    yield from _remat_changes(config)
    if mesh["pipeline"] > 1 and not config.layout.pipeline.recompute:
        stages = dataclasses.replace(config.layout.pipeline, recompute=True)
        yield {"pipeline": stages}, "keep only the input of a pipeline's stage"
    yield from _block_changes(config, mesh)
    yield from _placement_changes(config, mesh)


def _remat_changes(config: RunConfig) -> Iterator[tuple[dict[str, Any], str]]:
    """Less kept of each layer."""
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


def _block_changes(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Smaller microbatches and blocks of the loss."""
    layout = config.layout
    rows = config.data.batch_size // (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    for factor in (2, 4, 8):
        count = layout.microbatches * factor
        if rows % count == 0:
            yield {"microbatches": count}, f"the batch in {count} parts"
    for block in (512, 256, 128):
        if block < min(layout.loss_block, config.data.seq_len):
            yield {"loss_block": block}, f"logits of {block} positions at a time"


def _placement_changes(
    config: RunConfig, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Other shardings, memories and types of weights and optimizer."""
    layout = config.layout
    if mesh["data"] > layout.slices:
        fsdp = mesh["data"] // layout.slices * mesh["fsdp"]
        sharded = {"data": layout.slices, "fsdp": fsdp}
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
    if layout.precision == BFloat16():
        rounded = {"precision": BFloat16(masters="bfloat16")}
        yield rounded, "weights of bfloat16, rounded at random"
