"""FLOPs by formula, peaks of devices, and what a process has used."""

import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from llmjax.config import ModelConfig

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
}
CPU_SHAPES = ((2048, 2048, 2048), (4096, 384, 1536), (4096, 512, 1408))


def matmul_weights(cfg: ModelConfig, outputs: int | None = None) -> int:
    """Weights that multiply activations, of one token's forward pass.

    The output projection counts (tied or not), the embedding lookups do not.

    Args:
      cfg: the model; an encoder-decoder counts both stacks.
      outputs: columns of the output projection; None: the vocabulary.
    """
    D, F, H = cfg.d_model, cfg.d_ff, cfg.H
    attention = D * H * (2 * cfg.num_heads + 2 * cfg.K)
    mlp = D * F * (3 if cfg.mlp.kind == "gated" else 2)
    layer = attention + mlp
    if cfg.architecture == "encoder_decoder":
        layer = 2 * layer + attention
    return cfg.L * layer + D * (cfg.vocab_size if outputs is None else outputs)


def training_flops(
    cfg: ModelConfig, tokens: int, T: int, outputs: int | None = None
) -> tuple[int, int]:
    """FLOPs of forward and backward over `tokens` tokens in rows of T.

    6 * weights * tokens + 12 * L * T * N * H * tokens (the full attention square), and
    the same with half of the second term where the model is causal.
    """
    weights = 6 * matmul_weights(cfg, outputs) * tokens
    square = 12 * cfg.L * T * cfg.num_heads * cfg.H * tokens
    causal = square // 2 if cfg.architecture == "decoder" else square
    return weights + square, weights + causal


def matmul_peak(repeats: int = 20) -> tuple[float, dict[str, float]]:
    """FLOP/s of one device: published where known, else the best median measured.

    Returns:
      The peak, and what was measured per shape (empty where published): float32
      matmuls of `CPU_SHAPES`, `repeats` each.
    """
    kind = jax.devices()[0].device_kind
    for name in sorted(PUBLISHED_PEAKS, key=len, reverse=True):
        if kind.startswith(name):
            return PUBLISHED_PEAKS[name], {}
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
