"""Bytes and seconds of a step by formula, to order and prune layouts before compiling.

Coarse on purpose: only differences between layouts of one run are used. Bytes count
what a chip holds: the state, one copy of gradients, the values of each layer that the
backward pass needs, those of one layer at work, the logits of a block. Seconds count
matmuls and links, each at its peak rate. Fully-sharded weights move beside the matmuls,
everything else before or after them.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping

import jax
import numpy as np

from llmjax.config import (
    Activations,
    AutoAttention,
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
from llmjax.plan.cost import chips
from llmjax.plan.cost.gpus import GpuTopology
from llmjax.plan.cost.topologies import Topology
from llmjax.train.metrics import flops
from llmjax.train.setup import Program

NAMES: tuple[Activations, ...] = typing.get_args(Activations)
HALF = 2  # bytes of bfloat16


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a run that no layout changes, counted on its built program."""

    weights: int
    expert_weights: int  # the part of `weights` that has an axis of experts
    optimizer_bytes: float  # per weight

    @classmethod
    def of(cls, program: Program) -> "Size":
        """Counts the leaves of the abstract state."""
        weights = experts = 0
        leaves = jax.tree_util.tree_leaves_with_path(program.abstract.params)
        for path, leaf in leaves:
            count = math.prod(leaf.shape)
            weights += count
            experts += count if "experts" in jax.tree_util.keystr(path) else 0
        optimizer_bytes = sum(
            math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(program.abstract.opt_state)
        )
        return cls(weights, experts, optimizer_bytes / max(weights, 1))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimates for one chip and one step."""

    bytes: int
    seconds: float
    transfer_seconds: float  # all transfers, hidden or not


def estimate(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> Estimate:
    """Estimates a run on a mesh of these sizes."""
    transfers = sum(link_seconds(config, topology, size, mesh).values())
    step = seconds(config, topology, size, mesh)
    fused = _fused(config, topology)
    return Estimate(int(memory(config, size, mesh, fused)), step, transfers)


def mesh_sizes(layout: LayoutConfig, devices: int) -> dict[str, int]:
    """Sizes of the mesh's axes, with -1 replaced by what is left of the devices."""
    sizes = layout.mesh_sizes
    fixed = math.prod(n for n in sizes.values() if n > 0)
    return {axis: n if n > 0 else devices // fixed for axis, n in sizes.items()}


# --- bytes ---------------------------------------------------------------------------


def memory(
    config: RunConfig, size: Size, mesh: Mapping[str, int], fused: bool = False
) -> float:
    """Bytes per chip; `fused`: "dot_product" attention keeps no scores, as on GPUs."""
    layout, cfg = config.layout, config.model
    width = 4 if layout.precision.dtype == "float32" else HALF
    weights = local_weights(size, mesh)
    masters = 4 if layout.precision.masters == "float32" else HALF
    optimizer = 0.0 if layout.optimizer_memory == "host" else size.optimizer_bytes
    if layout.optimizer_sharding == "data":
        optimizer /= mesh["data"]
    gradients = 4 if layout.microbatches == 1 else 8
    cast = 0 if width == 4 else HALF
    state = weights * (masters + optimizer + gradients + cast)
    tokens = local_tokens(config, mesh) / layout.microbatches
    layers = cfg.L / mesh["pipeline"]
    kept = width * tokens * kept_width(layout, cfg, mesh["tensor"]) * layers
    if mesh["pipeline"] > 1:
        plan = pipeline.circular_schedule(layout, mesh["pipeline"])
        if plan.recompute:
            inputs = width * tokens * cfg.d_model * plan.rounds
            kept = inputs + kept / (plan.microbatches * plan.rounds)  # one stage works
        elif plan.rounds > 1:  # a stage's weights of each time
            kept += width * weights / plan.rounds * plan.times
    return state + kept + _working(config, size, mesh, tokens, width, fused)


def local_weights(size: Size, mesh: Mapping[str, int]) -> float:
    """Weights on one chip."""
    dense = size.weights - size.expert_weights
    shards = mesh["fsdp"] * mesh["tensor"] * mesh["pipeline"]
    return dense / shards + size.expert_weights / (shards * mesh["expert"])


def local_tokens(config: RunConfig, mesh: Mapping[str, int]) -> float:
    """Tokens of the batch on one chip, in all microbatches."""
    shards = mesh["data"] * mesh["fsdp"] * mesh["expert"] * mesh["sequence"]
    return config.data.batch_size * config.data.seq_len / shards


def widths(layout: LayoutConfig, cfg: ModelConfig, tensor: int) -> dict[str, float]:
    """Name of an activation that remat can keep -> its values per token on one chip."""
    spec = cfg.layers[0].pattern[0]
    mlp, F = cfg.layer_mlp(spec)
    if isinstance(mlp, Mixture):
        capacity = getattr(mlp.dispatch, "factor", 1)
        F = int(mlp.top_k * mlp.d_ff * capacity) + mlp.shared_d_ff
        mlp = mlp.expert
    query, key = cfg.num_heads * cfg.H / tensor, cfg.K * cfg.H / tensor
    D, up = float(cfg.d_model), F / tensor
    between = D / tensor if layout.context.sequence_parallel else D
    gate = 0.0 if isinstance(mlp, Plain) else up
    values = (between, query, key, key, query, D, gate, up, D)
    return dict(zip(NAMES, values, strict=True))


def kept_width(layout: LayoutConfig, cfg: ModelConfig, tensor: int) -> float:
    """Values per token and layer that are kept for the backward pass."""
    sizes = widths(layout, cfg, tensor)
    if isinstance(layout.remat, FullRemat):
        return sizes["input"]
    if isinstance(layout.remat, NamesRemat):
        saved = layout.remat.saved
        return sizes["input"] + sum(sizes[n] for n in saved if n != "input")
    every = sum(sizes.values())
    if isinstance(layout.remat, DotsRemat):
        return every - sizes["context"]
    # norms and the product of gate and up as well; `_working` has the scores
    return every + 2 * sizes["input"] + 2 * sizes["up"]


def _working(
    config: RunConfig,
    size: Size,
    mesh: Mapping[str, int],
    tokens: float,
    width: int,
    fused: bool,
) -> float:
    """Bytes at work: one layer's values forward and backward, its gathered weights, its
    attention scores, or the logits of a block where these are more."""
    cfg, layout = config.model, config.layout
    values = 2 * width * tokens * sum(widths(layout, cfg, mesh["tensor"]).values())
    layer = (
        size.weights
        / cfg.L
        / mesh["tensor"]
        / (mesh["expert"] if _has_experts(cfg) else 1)
    )
    gathered = 2 * HALF * layer if mesh["fsdp"] > 1 else 0.0
    rows = tokens / config.data.seq_len * mesh["sequence"]
    block = min(layout.loss_block, config.data.seq_len)
    logits = 3 * 4 * rows * block * cfg.vocab_size / mesh["tensor"]
    scores = 0.0
    whole = isinstance(layout.attention, EinsumAttention | DotProductAttention)
    if whole and not fused:
        T = config.data.seq_len
        scores = 2 * 4 * tokens * T * cfg.num_heads / mesh["tensor"]
        if isinstance(layout.remat, NoRemat):
            scores *= cfg.L / mesh["pipeline"]
    return max(values + scores, logits) + gathered


def _fused(config: RunConfig, topology: Topology) -> bool:
    """Whether the run's attention is cuDNN's kernel there (see `dot_product`)."""
    return (
        isinstance(topology, GpuTopology)
        and isinstance(config.layout.attention, DotProductAttention | AutoAttention)
        and config.layout.precision.dtype != "float32"
    )


def _has_experts(cfg: ModelConfig) -> bool:
    return isinstance(cfg.mlp, Mixture)


# --- seconds -------------------------------------------------------------------------


def seconds(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> float:
    """Seconds per step."""
    layout, chip = config.layout, topology.chip
    peak = chip.bf16_flops * chip.speedup(layout.quantization)
    compute = step_flops(config, _fused(config, topology)) / topology.chips / peak
    idle = bubble(layout, mesh["pipeline"])
    times = link_seconds(config, topology, size, mesh)
    hidden = times.pop("fsdp") + times.pop("data")
    host = _host_seconds(config, topology, size, mesh)
    return max(compute / (1 - idle), hidden) + sum(times.values()) + host


def link_seconds(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> dict[str, float]:
    """Mesh axis -> seconds per step that it keeps its links busy."""
    rates = bandwidths(topology, mesh)
    return {axis: n / rates[axis] for axis, n in link_bytes(config, size, mesh).items()}


def bubble(layout: LayoutConfig, stages: int) -> float:
    """Share of the step that pipeline stages idle while the pipeline fills and drains.

    Raises:
      ValueError: the microbatches don't fill the stages evenly.
    """
    if stages == 1:
        return 0.0
    plan = pipeline.circular_schedule(layout, stages)
    return pipeline.bubble_share(stages, plan.microbatches, plan.rounds)


def bandwidths(topology: Topology, mesh: Mapping[str, int]) -> dict[str, float]:
    """Mesh axis, outermost first -> bytes/s that a chip can send along it."""
    if isinstance(topology, GpuTopology):
        return topology.bandwidths(mesh)
    slow = {"data"} if topology.num_slices > 1 else set()
    return {axis: _torus_rate(topology, n, axis in slow) for axis, n in mesh.items()}


def _torus_rate(topology: chips.Topology, size: int, slow: bool) -> float:
    """Bytes/s that a chip can send along a mesh axis of this size."""
    chip = topology.chip
    if slow:
        return chip.dcn_bandwidth
    count = math.prod(topology.shape)
    share = math.log(max(size, 2)) / math.log(max(count, 2))
    dims = max(1, round(chip.torus_dims * min(share, 1.0)))
    return 2 * dims * chip.link_bandwidth  # both directions of a ring


def step_flops(config: RunConfig, fused: bool = False) -> float:
    """FLOPs that a step executes: with recomputation, without skipped blocks.

    `fused`: "dot_product" attention is a kernel, as on GPUs.
    """
    cfg, layout = config.model, config.layout
    T = config.data.seq_len
    tokens = config.data.batch_size * T
    full, causal = flops.training_flops(cfg, tokens, T)
    square = 2 * (full - causal)  # of attention without a mask
    skips_masked = isinstance(layout.attention, SplashAttention | BlockedAttention)
    attention = square / 2 if fused or skips_masked else square
    matmuls = full - square
    again = recomputed(layout, cfg)
    if fused or isinstance(layout.attention, SplashAttention):
        attention *= 7 / 6  # its backward pass computes the scores once more
    scores_again = attention / 3 * (0 if "context" in kept_names(layout) else 1)
    if layout.pipeline.recompute and layout.pipeline.stages != 1:
        again += 1
        scores_again += attention / 3
    return matmuls * (1 + again / 3) + attention + scores_again


def kept_names(layout: LayoutConfig) -> tuple[str, ...]:
    """Activations that the backward pass finds, on the device or in the host."""
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
    kept = kept_names(layout)
    total = sum(cost.values()) + sizes["up"] * D
    return sum(n for name, n in cost.items() if name not in kept) / total


def link_bytes(
    config: RunConfig, size: Size, mesh: Mapping[str, int]
) -> dict[str, float]:
    """Mesh axis -> bytes that one chip sends along it in a step (ring algorithms)."""
    cfg, layout = config.model, config.layout

    def sent(axis: str) -> float:
        """Share of an array that a ring sends from each chip."""
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
        "fsdp": weights * mesh["fsdp"] * sent("fsdp") * gathers,
        "data": 2 * 4 * weights * sent("data"),
        "tensor": (4 + 2 * again) * 2 * row * sent("tensor") * layers,
        "sequence": 3 * row * keys * mesh["sequence"] * sent("sequence") * layers,
        "expert": (4 + again) * row * top_k * sent("expert") * layers,
        "pipeline": 2 * row * sent("pipeline") * layout.pipeline.rounds,
    }


def _host_seconds(
    config: RunConfig, topology: Topology, size: Size, mesh: Mapping[str, int]
) -> float:
    """Seconds per step to the host's memory and back, counted as hidden by nothing."""
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
