"""Which layout is fastest: all of them by formula, the best few by the compiler."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

from llmjax.config import (
    Activations,
    FullRemat,
    Mixture,
    NamesRemat,
    NoRemat,
    RunConfig,
    SplashAttention,
)
from llmjax.parallel.axes import MESH_AXES
from llmjax.plan import estimate
from llmjax.plan.changes import changed, difference, flags
from llmjax.plan.chips import Topology
from llmjax.plan.compile import Compiled, compile_step
from llmjax.plan.estimate import Estimate, Size
from llmjax.plan.roofline import Prediction

ROOM = 1.15  # of the chip's memory that an estimate may take: it errs by about so much
TRIES = 4  # compiles for each place of the ranking, refused ones too
# What a layer keeps, cheapest first: of each value as much is saved per byte, but
# `context`, which brings the attention's scores back.
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


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A run with another layout, and the formula's view of it."""

    config: RunConfig
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A candidate that was compiled; without a prediction it did not fit."""

    candidate: Candidate
    change: dict[str, Any]
    compiled_bytes: int
    prediction: Prediction | None
    error: str = ""

    @property
    def step_seconds(self) -> float:
        """Predicted from the compiled program; infinite where there is none."""
        return self.prediction.step_seconds if self.prediction else float("inf")


def search(
    config: RunConfig,
    topology: Topology,
    size: Size,
    predict: Callable[[Compiled], Prediction],
    best: int = 4,
    compiler: Callable[..., Compiled] = compile_step,
) -> list[Ranked]:
    """Compiles the `best` candidates; fastest first, those that don't fit last.

    Two at most that fit on one mesh: the formula is too coarse to tell neighbours
    apart, and a mesh that it misjudges should not take every place. What a compile
    needs corrects the formula's bytes of that mesh. A candidate that the run refuses
    (attention that the kernel can't do), or that the compiler fails on, takes no place
    and is logged; after four times `best` compiles the search ends.
    """
    found: list[Ranked] = []
    ratios: dict[tuple[int, ...], float] = {}
    taken: Counter[tuple[int, ...]] = Counter()
    room = topology.chip.usable_hbm_bytes / topology.chip.devices
    tries = 0
    for candidate in candidates(config, topology, size):
        mesh = tuple(candidate.config.layout.mesh_sizes.values())
        bytes_ = candidate.estimate.bytes * ratios.get(mesh, 1 / ROOM)
        if len(found) == best or tries == TRIES * best:
            break
        if taken[mesh] == 2 or bytes_ > room:
            continue
        tries += 1
        change = difference(config, candidate.config)
        try:
            made = compiler(candidate.config, topology)
        except (ValueError, jax.errors.JaxRuntimeError) as e:
            logging.warning("search: left out %s: %s", flags(change), e)
            taken[mesh] += 1
            continue
        ratios[mesh] = made.needed / candidate.estimate.bytes
        taken[mesh] += made.fits
        prediction = predict(made) if made.fits else None
        found.append(Ranked(candidate, change, made.needed, prediction, made.error))
    return sorted(found, key=lambda ranked: ranked.step_seconds)


def candidates(config: RunConfig, topology: Topology, size: Size) -> list[Candidate]:
    """All that may fit by the estimate, the fastest first."""
    chip = topology.chip
    room = ROOM * chip.usable_hbm_bytes / chip.devices
    found = []
    for change in space(config, topology):
        try:
            after = changed(config, change)
            mesh = after.layout.mesh_sizes
            estimated = estimate.estimate(after, topology, size, mesh)
        except ValueError:
            continue
        if estimated.bytes <= room:
            found.append(Candidate(after, estimated))
    return sorted(found, key=_order)


def _order(candidate: Candidate) -> tuple[float, float, int]:
    """By seconds; where the matmuls hide the transfers, by what they hide."""
    of = candidate.estimate
    return of.seconds, of.links, of.bytes


# --- the space -----------------------------------------------------------------------


def space(config: RunConfig, topology: Topology) -> Iterator[dict[str, Any]]:
    """Meshes x remat x microbatches x attention, as changes of the layout."""
    for mesh in meshes(config, topology):
        rows = config.data.batch_size // (mesh["data"] * mesh["fsdp"] * mesh["expert"])
        parts = [m for m in MICROBATCHES if rows % m == 0]
        options = itertools.product(REMATS, parts, attentions(config))
        for remat, microbatches, attention in options:
            yield {
                **config.layout.mesh_fields(mesh),
                "remat": remat,
                "microbatches": microbatches,
                "attention": attention,
            }


def meshes(config: RunConfig, topology: Topology) -> Iterator[dict[str, int]]:
    """Factorisations of the devices that the run's shapes allow."""
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


def attentions(config: RunConfig) -> list[Any]:
    """The run's own, and splash attention where rows have blocks for it."""
    own = config.layout.attention
    splash = SplashAttention()
    other = config.data.seq_len % 128 == 0 and not isinstance(own, SplashAttention)
    return [own, splash] if other else [own]
