"""Search for the fastest layout: a formula orders all, the compiler ranks the best."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

from llmjax.config import (
    Activations,
    AutoAttention,
    DotProductAttention,
    FullRemat,
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

MARGIN = 1.15  # estimated bytes / the chip's memory, at most: estimates err by that
TRIES = 4  # compiles, refused ones too, per place of the ranking
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


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A run with another layout, and its estimate."""

    config: RunConfig
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A candidate that was compiled."""

    candidate: Candidate
    change: dict[str, Any]
    compiled_bytes: int
    prediction: Prediction | None  # None: it does not fit
    error: str = ""

    @property
    def step_seconds(self) -> float:
        """Predicted time of the compiled step; infinite where it does not fit."""
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

    At most two that fit come from one mesh: the formula is too coarse to tell its
    neighbours apart, and a mesh that it misjudges should not take every place. The
    bytes of each compile correct the formula's for the same mesh. A candidate that the
    run refuses (say attention that the kernel can't do), or that the compiler fails on,
    takes no place and is logged. The search ends after four times `best` compiles.
    """
    ranked: list[Ranked] = []
    corrections: dict[tuple[int, ...], float] = {}  # compiled bytes / estimated bytes
    fits_or_refusals: Counter[tuple[int, ...]] = Counter()  # by mesh
    available = topology.chip.usable_hbm_bytes / topology.chip.devices
    tries = 0
    for candidate in candidates(config, topology, size):
        mesh = tuple(candidate.config.layout.mesh_sizes.values())
        expected = candidate.estimate.bytes * corrections.get(mesh, 1 / MARGIN)
        if len(ranked) == best or tries == TRIES * best:
            break
        if fits_or_refusals[mesh] == 2 or expected > available:
            continue
        tries += 1
        change = difference(config, candidate.config)
        try:
            compiled = compiler(candidate.config, topology)
        except (ValueError, jax.errors.JaxRuntimeError) as e:
            logging.warning("search: left out %s: %s", flags(change), e)
            fits_or_refusals[mesh] += 1
            continue
        corrections[mesh] = compiled.needed / candidate.estimate.bytes
        fits_or_refusals[mesh] += compiled.fits
        prediction = predict(compiled) if compiled.fits else None
        ranked.append(
            Ranked(candidate, change, compiled.needed, prediction, compiled.error)
        )
    return sorted(ranked, key=lambda r: r.step_seconds)


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
