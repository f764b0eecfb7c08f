"""Seconds of a layout's splash attention on TPUs, before anything is compiled.

The kernels by `pallas`, for the shapes that the layout gives them; and the sum of dq's
parts, which XLA computes after the fused backward kernel, by its bytes.
"""

from collections.abc import Mapping

from llmjax.config import Gather, RunConfig, SplashAttention, Ulysses
from llmjax.models.attention.splash import block_size
from llmjax.plan.cost import estimate, pallas
from llmjax.plan.cost.chips import Chip
from llmjax.plan.cost.pallas import Blocks


def seconds(config: RunConfig, chip: Chip, mesh: Mapping[str, int]) -> float:
    """Seconds per step and device of all layers' kernels, if all layers see all keys.

    Args:
      config: a run whose `layout.attention` is splash attention.
      chip: the chip that runs it.
      mesh: its axes and their sizes.
    """
    attention, layers = config.layout.attention, config.model.L / mesh["pipeline"]
    assert isinstance(attention, SplashAttention)
    blocks, kept = _blocks(config, mesh), estimate.kept_names(config.layout)
    again = 0 if "context" in kept else 1
    backward = ["dkv+dq"] if attention.fused_backward else ["dq", "dkv"]
    kinds = ["forward"] * (1 + again) + backward
    kernels = sum(pallas.seconds(kind, blocks, chip) for kind in kinds)
    if attention.fused_backward:
        parts = blocks.heads * blocks.T * blocks.H * blocks.itemsize
        read_and_written = parts * (blocks.S // blocks.k + 1)
        kernels += read_and_written * chip.devices / chip.hbm_bandwidth
    return kernels * layers


def _blocks(config: RunConfig, mesh: Mapping[str, int]) -> Blocks:
    """One layer's call on one device."""
    cfg, T, attention = config.model, config.data.seq_len, config.layout.attention
    assert isinstance(attention, SplashAttention)
    shards = mesh["data"] * mesh["fsdp"] * mesh["expert"]
    heads = config.data.batch_size * cfg.num_heads / shards / mesh["tensor"]
    sharing = mesh["sequence"]  # devices that share a row
    queries = sharing if isinstance(config.layout.context, Gather) else 1
    if isinstance(config.layout.context, Ulysses):
        heads /= sharing
    # several devices' queries cost what one's would, over so many
    return Blocks(
        heads=max(1, round(heads / queries)),
        T=T,
        S=T,
        H=cfg.H,
        V=cfg.H,
        q=block_size(T // queries, attention.block_q),
        k=block_size(T, attention.block_kv),
        causal=cfg.architecture != "encoder",
        itemsize=4 if config.layout.precision.dtype == "float32" else 2,
        sharing=cfg.num_heads // cfg.K,
    )
