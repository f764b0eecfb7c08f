"""Logits of whole models against the NumPy reference, in families of the field."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.heads.language import LanguageModel
from tests.models import reference

pytestmark = pytest.mark.usefixtures("quick_compile")

LOCAL = config.LayerSpec(config.SlidingWindow(3))

FAMILIES = {
    "llama": {"tie_embeddings": False},
    "gpt2": {
        "positions": config.Learned(16),
        "norm": config.LayerNorm(),
        "mlp": config.Plain("gelu"),
        "biases": "all",
        "num_kv_heads": None,
        "head_dim": None,
    },
    "bert": {
        "architecture": "encoder",
        "positions": config.Learned(16),
        "norm": config.LayerNorm(1e-3),
        "norm_position": "post",
        "mlp": config.Plain("gelu_tanh"),
        "biases": "all",
        "num_kv_heads": None,
    },
    "vaswani": {
        "architecture": "encoder_decoder",
        "positions": config.Sinusoidal(),
        "norm": config.LayerNorm(),
        "norm_position": "post",
        "mlp": config.Plain("relu"),
        "biases": "all",
        "num_layers": 1,
    },
    "t5": {
        "architecture": "encoder_decoder",
        "positions": config.NoPositions(),
        "scores": config.Dot(),
        "mlp": config.Gated("gelu_tanh"),
        "num_layers": 1,
    },
    "gemma": {
        "groups": (
            config.Group(2, (LOCAL, config.LayerSpec())),
            config.Group(1, (LOCAL,)),
        ),
        "norm_position": "both",
        "num_kv_heads": 1,
        "mlp": config.Gated("gelu_tanh"),
        "positions": config.Rotary(500.0),
    },
    "cosine": {
        "scores": config.Cosine(),
        "biases": "all",
        "mlp": config.Plain("relu_squared"),
    },
    "cosine_cross": {
        "architecture": "encoder_decoder",
        "scores": config.Cosine(),
        "num_layers": 1,
    },
    "local_encoder": {
        "architecture": "encoder",
        "groups": (config.Group(2, (LOCAL,)),),
    },
}


def make_batch(cfg: config.ModelConfig) -> dict[str, jax.Array]:
    """Two rows of ten, one of two packed texts, one of a text and padding."""
    rng = np.random.default_rng(1)
    segments = [[1] * 6 + [2] * 4, [1] * 7 + [0] * 3]
    positions = [[*range(6), *range(4)], [*range(10)]]
    batch = {
        "tokens": rng.integers(cfg.vocab_size, size=(2, 10)),
        "segment_ids": np.array(segments),
        "positions": np.array(positions),
    }
    if cfg.architecture == "encoder_decoder":
        batch |= {
            "encoder_tokens": rng.integers(cfg.vocab_size, size=(2, 8)),
            "encoder_segment_ids": np.array([[1] * 5 + [2] * 3, [1] * 6 + [0] * 2]),
            "encoder_positions": np.array([[*range(5), *range(3)], [*range(8)]]),
        }
    return {k: jnp.asarray(v, jnp.int32) for k, v in batch.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_references(family, tiny, random_params):
    cfg = dataclasses.replace(tiny, **FAMILIES[family])
    model, batch = LanguageModel(cfg), make_batch(cfg)
    params = random_params(model, batch)
    got, _ = jax.jit(model.apply)({"params": params}, batch)
    want = reference.logits(cfg, params, batch)
    real = np.asarray(batch["segment_ids"]) > 0
    error = np.abs(got - want)[real].max() / np.abs(want[real]).max()
    assert error < 1e-5
    assert got.dtype == jnp.float32


def test_without_segments_rows_are_one_text(tiny, random_params):
    cfg = dataclasses.replace(tiny, positions=config.Learned(10))
    model, batch = LanguageModel(cfg), {"tokens": make_batch(tiny)["tokens"]}
    params = random_params(model, batch)
    got, _ = jax.jit(model.apply)({"params": params}, batch)
    want = reference.logits(cfg, params, batch)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
