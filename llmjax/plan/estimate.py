"""Bytes and seconds of a step by formula: what orders and prunes before a compile.

Coarse on purpose. Bytes count what a chip holds: the state, one copy of gradients, what
the backward pass keeps of each layer, one layer's own values, the logits of a block.
Seconds count matmuls at the chip's peak and links at theirs; fully-sharded weights move
beside the matmuls, everything else in turn with them. Only differences between layouts
of one run are used.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import numpy as np

from llmjax.config import (
    BlockedAttention,
    DotProductAttention,
    DotsRemat,
    EinsumAttention,
    FullRemat,
    LayoutConfig,
    Mixture,
    ModelConfig,
    NamesRemat,
    NoRemat,
    Plain,
    RunConfig,
    SplashAttention,
)
from llmjax.parallel import pipeline
from llmjax.plan.chips import Topology
from llmjax.train import flops
from llmjax.train.setup import Program

NAMES = ("input", "query", "key", "value", "context", "out", "gate", "up", "down")
HALF = 2  # bytes of bfloat16


@dataclasses.dataclass(frozen=True)
class Size:
    """What a run has to hold, whatever its layout: counts of a built program."""

    weights: int
    expert_weights: int  # those of them with an axis of experts
    optimizer_bytes: float  # per weight

    @classmethod
    def of(cls, program: Program) -> "Size":
        """Counted on the abstract state."""
        weights = experts = 0
        pairs = jax.tree_util.tree_leaves_with_path(program.abstract.params)
        for path, leaf in pairs:
            count = math.prod(leaf.shape)
            weights += count
            experts += count if "experts" in jax.tree_util.keystr(path) else 0
        held = sum(
            math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(program.abstract.opt_state)
        )
        return cls(weights, experts, held / max(weights, 1))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one chip and one step; `links`: seconds of all transfers, hidden or not."""

    bytes: int
    seconds: float
    links: float


def estimate(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> Estimate:
    """Of a run whose mesh has these sizes."""
    links = sum(link_seconds(config, topology, size, mesh).values())
    step = seconds(config, topology, size, mesh)
    return Estimate(int(memory(config, size, mesh)), step, links)


def mesh_sizes(layout: LayoutConfig, devices: int) -> dict[str, int]:
    """The sizes of the mesh's axes, the -1 filled in."""
    sizes = layout.mesh_sizes
    fixed = math.prod(n for n in sizes.values() if n > 0)
    return {axis: n if n > 0 else devices // fixed for axis, n in sizes.items()}


# --- bytes ---------------------------------------------------------------------------


def memory(config: RunConfig, size: Size, mesh: Mapping[str, int]) -> float:
    """Bytes per chip."""
    layout, cfg = config.layout, config.model
    width = 4 if layout.precision == "float32" else HALF
    weights = local_weights(size, mesh)
    masters = 4 if layout.masters == "float32" else HALF
    optimizer = 0.0 if layout.optimizer_memory == "host" else size.optimizer_bytes
    if layout.optimizer_sharding == "data":
        optimizer /= mesh["data"]
    gradients = 4 if layout.microbatches == 1 else 8
    cast = 0 if width == 4 else HALF
    state = weights * (masters + optimizer + gradients + cast)
    tokens = local_tokens(config, mesh) / layout.microbatches
    layers = cfg.L / mesh["pipeline"]
    kept = width * tokens * kept_width(layout, cfg, mesh["tensor"]) * layers
    return state + kept + _working(config, size, mesh, tokens, width)


def local_weights(size: Size, mesh: Mapping[str, int]) -> float:
    """Weights of one chip."""
    dense = size.weights - size.expert_weights
    cut = mesh["fsdp"] * mesh["tensor"] * mesh["pipeline"]
    return dense / cut + size.expert_weights / (cut * mesh["expert"])


def local_tokens(config: RunConfig, mesh: Mapping[str, int]) -> float:
    """Tokens of the batch on one chip, all microbatches."""
    cut = mesh["data"] * mesh["fsdp"] * mesh["expert"] * mesh["sequence"]
    return config.data.batch_size * config.data.seq_len / cut


def widths(layout: LayoutConfig, cfg: ModelConfig, tensor: int) -> dict[str, float]:
    """Values per token of what remat knows by name, on one chip."""
    spec = cfg.layers[0].pattern[0]
    mlp, F = cfg.layer_mlp(spec)
    if isinstance(mlp, Mixture):
        room = getattr(mlp.dispatch, "factor", 1)
        F = int(mlp.top_k * mlp.d_ff * room) + mlp.shared_d_ff
        mlp = mlp.expert
    query, key = cfg.num_heads * cfg.H / tensor, cfg.K * cfg.H / tensor
    D, up = float(cfg.d_model), F / tensor
    between = D / tensor if layout.context.sequence_parallel else D
    gate = 0.0 if isinstance(mlp, Plain) else up
    values = (between, query, key, key, query, D, gate, up, D)
    return dict(zip(NAMES, values, strict=True))


def kept_width(layout: LayoutConfig, cfg: ModelConfig, tensor: int) -> float:
    """Values per token and layer that the backward pass finds kept."""
    sizes = widths(layout, cfg, tensor)
    if isinstance(layout.remat, FullRemat):
        return sizes["input"]
    if isinstance(layout.remat, NamesRemat):
        saved = layout.remat.saved
        return sizes["input"] + sum(sizes[n] for n in saved if n != "input")
    every = sum(sizes.values())
    if isinstance(layout.remat, DotsRemat):
        return every - sizes["context"]
    # norms and the product of gate and up too, and scores where they are whole
    return every + 2 * sizes["input"] + 2 * sizes["up"]


def _working(
    config: RunConfig,
    size: Size,
    mesh: Mapping[str, int],
    tokens: float,
    width: int,
) -> float:
    """One layer's values forward and backward, its gathered weights, logits, scores."""
    cfg, layout = config.model, config.layout
    own = 2 * width * tokens * sum(widths(layout, cfg, mesh["tensor"]).values())
    layer = size.weights / cfg.L / mesh["tensor"] / (mesh["expert"] if _moe(cfg) else 1)
    gathered = 2 * HALF * layer if mesh["fsdp"] > 1 else 0.0
    rows = tokens / config.data.seq_len * mesh["sequence"]
    block = min(layout.loss_block, config.data.seq_len)
    logits = 3 * 4 * rows * block * cfg.vocab_size / mesh["tensor"]
    scores = 0.0
    if isinstance(layout.attention, EinsumAttention | DotProductAttention):
        T = config.data.seq_len
        scores = 2 * 4 * tokens * T * cfg.num_heads / mesh["tensor"]
        if isinstance(layout.remat, NoRemat):
            scores *= cfg.L / mesh["pipeline"]
    return max(own + scores, logits) + gathered


def _moe(cfg: ModelConfig) -> bool:
    return isinstance(cfg.mlp, Mixture)


# --- seconds -------------------------------------------------------------------------


def seconds(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> float:
    """Seconds per step."""
    layout, chip = config.layout, topology.chip
    peak = chip.bf16_flops * chip.speedup(layout.quantization)
    compute = work(config) / topology.chips / peak
    idle = bubble(layout, mesh["pipeline"])
    times = link_seconds(config, topology, size, mesh)
    beside = times.pop("fsdp") + times.pop("data")
    host = _host_seconds(config, topology, size, mesh)
    return max(compute / (1 - idle), beside) + sum(times.values()) + host


def link_seconds(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> dict[str, float]:
    """Seconds per step that each mesh axis keeps its links busy."""
    slow = {"data"} if topology.num_slices > 1 else set()
    return {
        axis: n / bandwidth(topology, mesh[axis], axis in slow)
        for axis, n in link_bytes(config, size, mesh).items()
    }


def bubble(layout: LayoutConfig, stages: int) -> float:
    """The share of time that a pipeline's stages wait to be filled and drained.

    Raises:
      ValueError: microbatches that don't fill the stages evenly.
    """
    if stages == 1:
        return 0.0
    plan = pipeline.circular_schedule(layout, stages)
    return pipeline.bubble_share(stages, plan.microbatches, plan.rounds)


def bandwidth(topology: Topology, size: int, slow: bool) -> float:
    """Bytes/s that a chip sends to others of a mesh axis of this size."""
    chip = topology.chip
    if slow:
        return chip.dcn_bandwidth
    chips = math.prod(topology.shape)
    share = math.log(max(size, 2)) / math.log(max(chips, 2))
    dims = max(1, round(chip.torus_dims * min(share, 1.0)))
    return 2 * dims * chip.link_bandwidth  # both directions of a ring


def work(config: RunConfig) -> float:
    """FLOPs of a step with what remat computes again and attention does not skip."""
    cfg, layout = config.model, config.layout
    T = config.data.seq_len
    tokens = config.data.batch_size * T
    full, causal = flops.training_flops(cfg, tokens, T)
    square = 2 * (full - causal)
    skips = isinstance(layout.attention, SplashAttention | BlockedAttention)
    attention = square / 2 if skips else square
    base = full - square
    again = recomputed(layout, cfg)
    if isinstance(layout.attention, SplashAttention):
        attention *= 7 / 6  # it computes the scores once more, backward
    redone = attention / 3 * (0 if "context" in _kept(layout) else 1)
    return base * (1 + again / 3) + attention + redone


def _kept(layout: LayoutConfig) -> tuple[str, ...]:
    match layout.remat:
        case NamesRemat(saved, offloaded):
            return (*saved, *offloaded)
        case NoRemat():
            return NAMES
    return ()


def recomputed(layout: LayoutConfig, cfg: ModelConfig) -> float:
    """Share of the layers' forward matmuls that the backward pass repeats."""
    if isinstance(layout.remat, FullRemat):
        return 1.0
    if not isinstance(layout.remat, NamesRemat):
        return 0.0
    D, sizes = cfg.d_model, widths(layout, cfg, 1)
    cost = {
        "query": sizes["query"] * D,
        "key": sizes["key"] * D,
        "value": sizes["value"] * D,
        "out": sizes["query"] * D,
        "gate": sizes["gate"] * D,
        "up": sizes["up"] * D,
    }
    # "down" is never needed again: its result is the next layer's input
    kept = _kept(layout)
    total = sum(cost.values()) + sizes["up"] * D
    return sum(n for name, n in cost.items() if name not in kept) / total


def link_bytes(
    config: RunConfig, size: Size, mesh: Mapping[str, int]
) -> dict[str, float]:
    """Bytes that one chip sends in a step over each mesh axis (ring algorithms)."""
    cfg, layout = config.model, config.layout

    def over(axis: str) -> float:
        return (mesh[axis] - 1) / mesh[axis]

    tokens = local_tokens(config, mesh)
    layers = cfg.L / mesh["pipeline"]
    weights = local_weights(size, mesh)
    again = 1 if isinstance(layout.remat, FullRemat | NamesRemat) else 0
    gathers = (2 + again) * HALF * layout.microbatches + 4 * layout.microbatches
    row = tokens * cfg.d_model * HALF
    top_k = cfg.mlp.top_k if isinstance(cfg.mlp, Mixture) else 0
    keys = 2 * cfg.K * cfg.H / mesh["tensor"] / max(cfg.d_model, 1)
    return {
        "fsdp": weights * mesh["fsdp"] * over("fsdp") * gathers,
        "data": 2 * 4 * weights * over("data"),
        "tensor": (4 + 2 * again) * 2 * row * over("tensor") * layers,
        "sequence": 3 * row * keys * mesh["sequence"] * over("sequence") * layers,
        "expert": (4 + again) * row * top_k * over("expert") * layers,
        "pipeline": 2 * row * over("pipeline") * layout.pipeline.rounds,
    }


def _host_seconds(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> float:
    """What goes to the host's memory and back, counted as hidden by nothing."""
    layout = config.layout
    moved = 0.0
    if layout.optimizer_memory == "host":
        moved += 2 * size.optimizer_bytes * local_weights(size, mesh)
    if isinstance(layout.remat, NamesRemat):
        sizes = widths(layout, config.model, mesh["tensor"])
        per_token = HALF * sum(sizes[name] for name in layout.remat.offloaded)
        layers = config.model.L / mesh["pipeline"]
        moved += 2 * local_tokens(config, mesh) * per_token * layers
    return moved / topology.chip.host_bandwidth
