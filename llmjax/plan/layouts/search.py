"""Search for the fastest layout: a formula orders, the compiler ranks, step by step."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
from absl import logging

from llmjax.config import (
    Activations,
    AutoAttention,
    DotProductAttention,
    FullRemat,
    LayoutConfig,
    Mixture,
    NamesRemat,
    NoRemat,
    RunConfig,
    SplashAttention,
)
from llmjax.parallel.axes import MESH_AXES
from llmjax.plan.compiler.compile import Compiled, compile_step
from llmjax.plan.cost import estimate
from llmjax.plan.cost.estimate import Estimate, Size
from llmjax.plan.cost.gpus import GpuTopology
from llmjax.plan.cost.roofline import Prediction
from llmjax.plan.cost.topologies import Topology
from llmjax.plan.layouts.changes import changed, difference, flags
from llmjax.plan.layouts.moves import Move, moves

MARGIN = 1.15  # estimated bytes / the chip's memory, at most: estimates err by that
MESHES = 1 / 3  # of the compiles, for layouts that the formula puts first
# Activations that remat may keep, cheapest first. Each saves about as much work per
# byte, except `context`: without it the attention scores are computed again.
LADDER: tuple[Activations, ...] = (
    "out",
    "value",
    "key",
    "query",
    "context",
    "gate",
    "up",
)
SAVED: tuple[tuple[Activations, ...], ...] = (
    *(LADDER[:count] for count in range(1, len(LADDER) + 1)),
    ("context",),
    ("out", "query", "key", "gate", "up"),
)
REMATS = (NoRemat(), *map(NamesRemat, SAVED), FullRemat())
MICROBATCHES = (1, 2, 4, 8)


Mesh = tuple[int, ...]  # sizes of the axes


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A run with another layout, and its estimate."""

    config: RunConfig
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A layout that was compiled.

    Attributes:
      change: from the run's own layout.
      why: what was changed at last, in words.
      prediction: None: it does not fit.
    """

    candidate: Candidate
    change: dict[str, Any]
    compiled_bytes: int
    prediction: Prediction | None
    error: str = ""
    why: str = ""

    @property
    def step_seconds(self) -> float:
        """Predicted time of the compiled step; infinite where it does not fit."""
        return self.prediction.step_seconds if self.prediction else float("inf")


def search(
    config: RunConfig,
    topology: Topology,
    size: Size,
    predict: Callable[[Compiled], Prediction],
    compiles: int = 12,
    compiler: Callable[..., Compiled] = compile_step,
    start: Compiled | None = None,
    fixed: Collection[str] = (),
    available: int | None = None,
) -> list[Ranked]:
    """Looks for the fastest layout; fastest first, those that don't fit last.

    First it compiles layouts on several meshes, in the order of the formula. Then it
    climbs: of the fastest so far it changes one thing at a time (`moves`), and keeps
    what helps. A kind of change that does not help waits until the others had as many
    failures; a change that did not help, or that the run or the compiler refused, is
    not tried again.

    Args:
      config: the run.
      topology: the topology.
      size: sizes of the run.
      predict: predicts the time of a step that fits.
      compiles: at most, those of refused layouts too.
      compiler: compiles a run for a topology.
      start: the run's own step, where it is compiled already.
      fixed: fields of the layout, or of the mesh, that stay as they are.
      available: bytes per device that a step may take; None: what the chip has.
    """
    mesh = estimate.mesh_sizes(config.layout, topology.devices)
    config = changed(config, config.layout.mesh_fields(mesh))  # none is -1
    explored = _Explored(config, topology, predict, compiler, compiles, available)
    own = Candidate(config, estimate.estimate(config, topology, size, mesh))
    if start is not None:
        explored.note(own, start, "")
    else:
        explored.compile(own, "")
    _try_meshes(explored, candidates(config, topology, size), fixed)
    _climb(explored, size, fixed)
    return sorted(explored.ranked, key=lambda r: r.step_seconds)


class _Explored:
    """What a search has compiled, and what that taught it."""

    def __init__(self, config, topology, predict, compiler, compiles, available):
        chip = topology.chip
        self.config: RunConfig = config
        self.topology: Topology = topology
        self.predict = predict
        self.compiler = compiler
        self.left: int = compiles
        self.available = available or chip.usable_hbm_bytes // chip.devices
        self.ranked: list[Ranked] = []
        self.tried: set[LayoutConfig] = set()
        self.corrections: dict[Mesh, float] = {}  # compiled bytes / estimated bytes

    @property
    def best(self) -> Ranked | None:
        """The fastest layout so far that fits."""
        fitting = [r for r in self.ranked if r.prediction]
        return min(fitting, key=lambda r: r.step_seconds, default=None)

    def may_fit(self, candidate: Candidate) -> bool:
        """Whether it should, by the estimate and by what compiles said about it."""
        correction = self.corrections.get(_mesh(candidate.config), 1 / MARGIN)
        return candidate.estimate.bytes * correction <= self.available

    def compile(self, candidate: Candidate, why: str) -> Ranked | None:
        """Compiles a layout; None where the run or the compiler refuses it."""
        self.left -= 1
        self.tried.add(candidate.config.layout)
        try:
            compiled = self.compiler(candidate.config, self.topology)
        except (ValueError, jax.errors.JaxRuntimeError) as e:
            change = flags(difference(self.config, candidate.config))
            logging.warning("search: left out %s: %s", change, e)
            return None
        return self.note(candidate, compiled, why)

    def note(self, candidate: Candidate, compiled: Compiled, why: str) -> Ranked:
        """Takes a compiled layout in."""
        self.tried.add(candidate.config.layout)
        correction = compiled.needed / candidate.estimate.bytes
        self.corrections[_mesh(candidate.config)] = correction
        fits = compiled.fits and compiled.needed <= self.available
        change = difference(self.config, candidate.config)
        prediction = self.predict(compiled) if fits else None
        ranked = Ranked(
            candidate, change, compiled.needed, prediction, compiled.error, why
        )
        self.ranked.append(ranked)
        return ranked


def _try_meshes(
    explored: _Explored, found: list[Candidate], fixed: Collection[str]
) -> None:
    """Compiles the formula's first, two of a mesh: it can't tell neighbours apart."""
    budget = round(explored.left * MESHES)
    fits_or_refusals: Counter[Mesh] = Counter()
    for candidate in found:
        mesh, layout = _mesh(candidate.config), candidate.config.layout
        change = difference(explored.config, candidate.config)
        if budget == 0:
            return
        full = fits_or_refusals[mesh] == 2
        if full or layout in explored.tried or set(change) & set(fixed):
            continue
        if not explored.may_fit(candidate):
            continue
        budget -= 1
        ranked = explored.compile(candidate, "by the formula")
        fits_or_refusals[mesh] += ranked is None or ranked.prediction is not None


def _climb(explored: _Explored, size: Size, fixed: Collection[str]) -> None:
    """Changes one thing at a time of the fastest layout, and keeps what helps."""
    failures: Counter[str] = Counter()  # of a kind, since it last helped
    useless: set[tuple[str, str]] = set()
    while explored.left > 0 and (best := explored.best):
        config = best.candidate.config
        options = [
            (move, candidate)
            for move in moves(config, explored.topology, size)
            if not set(move.change) & set(fixed)
            and (move.kind, move.why) not in useless
            for candidate in [_moved(config, move, explored.topology, size)]
            if candidate.config.layout not in explored.tried
            and explored.may_fit(candidate)
        ]
        if not options:
            return
        move, candidate = min(options, key=lambda option: failures[option[0].kind])
        ranked = explored.compile(candidate, move.why)
        if ranked is not None and ranked.step_seconds < best.step_seconds:
            failures[move.kind] = 0
        else:
            failures[move.kind] += 1
            useless.add((move.kind, move.why))


def _moved(config: RunConfig, move: Move, topology: Topology, size: Size) -> Candidate:
    after = changed(config, move.change)
    mesh = estimate.mesh_sizes(after.layout, topology.devices)
    return Candidate(after, estimate.estimate(after, topology, size, mesh))


def _mesh(config: RunConfig) -> Mesh:
    return tuple(config.layout.mesh_sizes.values())


def candidates(config: RunConfig, topology: Topology, size: Size) -> list[Candidate]:
    """Layouts that may fit by the estimate, the fastest first."""
    chip = topology.chip
    limit = MARGIN * chip.usable_hbm_bytes / chip.devices
    fitting = []
    for change in space(config, topology):
        try:
            after = changed(config, change)
            mesh = after.layout.mesh_sizes
            estimated = estimate.estimate(after, topology, size, mesh)
        except ValueError:
            continue
        if estimated.bytes <= limit:
            fitting.append(Candidate(after, estimated))
    return sorted(fitting, key=_order)


def _order(candidate: Candidate) -> tuple[float, float, int]:
    """Sorts by seconds; where the matmuls hide the transfers, by the transfers too."""
    estimated = candidate.estimate
    return estimated.seconds, estimated.transfer_seconds, estimated.bytes


# --- the search space ----------------------------------------------------------------


def space(config: RunConfig, topology: Topology) -> Iterator[dict[str, Any]]:
    """Changes of the layout: meshes x remat x microbatches x attention."""
    for mesh in meshes(config, topology):
        rows = config.data.batch_size // (mesh["data"] * mesh["fsdp"] * mesh["expert"])
        counts = [m for m in MICROBATCHES if rows % m == 0]
        options = itertools.product(REMATS, counts, attentions(config, topology))
        for remat, microbatches, attention in options:
            yield {
                **config.layout.mesh_fields(mesh),
                "remat": remat,
                "microbatches": microbatches,
                "attention": attention,
            }


def meshes(config: RunConfig, topology: Topology) -> Iterator[dict[str, int]]:
    """Mesh sizes that multiply to the number of devices and divide the run's shapes."""
    cfg, data = config.model, config.data
    devices, slices = topology.devices, topology.num_slices
    mixture = isinstance(cfg.mlp, Mixture)
    experts = cfg.mlp.num_experts if isinstance(cfg.mlp, Mixture) else 1
    tensors = [t for t in (1, 2, 4, 8) if cfg.K % t == 0 and cfg.num_heads % t == 0]
    sequences = [s for s in (1, 2, 4, 8) if data.seq_len % (128 * s) == 0]
    stages = [p for p in (1, 2, 4, 8) if cfg.layers[0].repeat % p == 0]
    groups = [e for e in (1, 2, 4, 8) if experts % e == 0] if mixture else [1]
    for t, s, p, e in itertools.product(tensors, sequences, stages, groups):
        rest, odd = divmod(devices, t * s * p * e)
        if odd or t * s * p > 16:
            continue
        for copies in (1, 2, 4, 8, 16, 32, 64):
            count = copies * slices
            if rest % count or data.batch_size % (rest * e):
                continue
            sizes = (count, p, rest // count, e, s, t)
            yield dict(zip(MESH_AXES, sizes, strict=True))


def attentions(config: RunConfig, topology: Topology) -> list[Any]:
    """The run's own attention, and the kernel of the topology where it works."""
    own = config.layout.attention
    kernels: list[Any]
    if isinstance(topology, GpuTopology):
        narrow = config.layout.precision.dtype != "float32"
        kernels = [DotProductAttention()] if narrow else []
        has_kernel = isinstance(own, DotProductAttention | AutoAttention)
    else:
        kernels = [SplashAttention()] if config.data.seq_len % 128 == 0 else []
        has_kernel = isinstance(own, SplashAttention)
    return [own] if has_kernel else [own, *kernels]
