"""FLOPs by formula, peaks of devices, and what a process has used."""

import re
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from llmjax.config import (
    ClampedGated,
    Gated,
    Latent,
    LayerSpec,
    Mixture,
    ModelConfig,
    Plain,
    Transformed,
)

# Published peaks in FLOP/s per chip at bfloat16, from the makers' data sheets.
PUBLISHED_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
}
CPU_SHAPES = ((2048, 2048, 2048), (4096, 384, 1536), (4096, 512, 1408))


def matmul_weights(cfg: ModelConfig, outputs: int | None = None) -> int:
    """Weights that multiply activations, of one token's forward pass.

    Of a mixture the router, `top_k` experts and the shared one, however tokens are
    dispatched; layers that share weights count each time. The output projection counts
    (tied or not), the embedding lookups do not, nor do projections of relative
    positions, which are one for all rows.

    Args:
      cfg: the model; an encoder-decoder counts both stacks.
      outputs: columns of the output projection; None: the vocabulary.
    """
    D, M = cfg.d_model, cfg.embedding_size or cfg.d_model
    stacks = [cfg.layers]
    cross = 0
    if cfg.architecture == "encoder_decoder":
        stacks.append(cfg.encoder_layers)
        cross = cfg.L * _multi_head(cfg)
    heads = cfg.heads
    attention = _latent(cfg, heads) if isinstance(heads, Latent) else _multi_head(cfg)
    layers = sum(
        group.repeat * (attention + _mlp(cfg, spec))
        for groups in stacks
        for group in groups
        for spec in group.pattern
    )
    into = 0 if cfg.embedding_size is None else len(stacks) * M * D
    if outputs is not None:
        return layers + cross + into + D * outputs
    transform = D * M if isinstance(cfg.output, Transformed) else 0
    return layers + cross + into + transform + M * cfg.vocab_size


def _multi_head(cfg: ModelConfig) -> int:
    return cfg.d_model * cfg.H * (2 * cfg.num_heads + 2 * cfg.K)


def _latent(cfg: ModelConfig, heads: Latent) -> int:
    D, N, R, value = cfg.d_model, cfg.num_heads, heads.rank, heads.value_dim
    query = N * (cfg.H + heads.rotary_dim)
    rank = heads.query_rank
    queries = D * query if rank is None else D * rank + rank * query
    keys_values = D * (R + heads.rotary_dim) + R * N * (cfg.H + value)
    return queries + keys_values + N * value * D


def _mlp(cfg: ModelConfig, spec: LayerSpec) -> int:
    mlp, F = cfg.layer_mlp(spec)
    D = cfg.d_model
    if isinstance(mlp, Mixture):
        F = mlp.top_k * mlp.d_ff + mlp.shared_d_ff
        return D * mlp.num_experts + D * F * _matrices(mlp.expert)
    return D * F * _matrices(mlp)


def _matrices(mlp: Plain | Gated | ClampedGated) -> int:
    return 2 if isinstance(mlp, Plain) else 3


def training_flops(
    cfg: ModelConfig, tokens: int, T: int, outputs: int | None = None
) -> tuple[int, int]:
    """FLOPs of forward and backward over `tokens` tokens in rows of T.

    6 * weights * tokens + 12 * L * T * N * H * tokens, the full square of every
    attention, whatever a window or pattern hides; and the same with half of it where
    a stack is causal. H is the mean size of a key and a value: of latent attention
    (H + rotary_dim + value_dim) / 2. An encoder-decoder has `tokens` in both stacks,
    and squares of L decoder, L cross- and its encoder's attentions.
    """
    weights = 6 * matmul_weights(cfg, outputs) * tokens
    sizes = 2 * cfg.H  # of a key and a value
    if isinstance(cfg.heads, Latent):
        sizes = cfg.H + cfg.heads.rotary_dim + cfg.heads.value_dim
    square = 6 * T * cfg.num_heads * tokens
    own, other = cfg.L * sizes * square, 0
    if cfg.architecture == "encoder_decoder":
        encoder = sum(g.repeat * len(g.pattern) for g in cfg.encoder_layers)
        other = (encoder * sizes + cfg.L * 2 * cfg.H) * square
    causal = own if cfg.architecture == "encoder" else own // 2
    return weights + own + other, weights + causal + other


def published_peak(device_kind: str) -> float | None:
    """FLOP/s in bfloat16 of a device by its kind, whose model may say more than ours.

    "NVIDIA A100-SXM4-80GB" is an NVIDIA A100; an NVIDIA L40S is no L4.
    """
    for name in sorted(PUBLISHED_PEAKS, key=len, reverse=True):
        if re.match(rf"{re.escape(name)}\b", device_kind):
            return PUBLISHED_PEAKS[name]
    return None


def matmul_peak(repeats: int = 20) -> tuple[float, dict[str, float]]:
    """FLOP/s of one device: published where known, else the best median measured.

    Returns:
      The peak, and what was measured per shape (empty where published): float32
      matmuls of `CPU_SHAPES`, `repeats` each.
    """
    peak = published_peak(jax.devices()[0].device_kind)
    if peak is not None:
        return peak, {}
    measured = {}
    matmul = jax.jit(jnp.matmul)
    for m, k, n in CPU_SHAPES:
        a = jax.random.normal(jax.random.key(0), (m, k))
        b = jax.random.normal(jax.random.key(1), (k, n))
        matmul(a, b).block_until_ready()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            matmul(a, b).block_until_ready()
            seconds.append(time.perf_counter() - start)
        measured[f"{m}x{k}x{n}"] = 2 * m * k * n / statistics.median(seconds)
    return max(measured.values()), measured


def peak_memory_bytes() -> int:
    """The most ever in use: of the first device where it tells, else of the host."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
