"""Cached decoding, token by token or in pieces, equals the full forward."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.cache import empty_cache
from llmjax.models.heads.language import LanguageModel

T, SLOTS = 8, 11
LOCAL = config.LayerSpec(config.SlidingWindow(3))
MODELS = {
    "rotary": {},
    "learned": {"positions": config.Learned(T), "num_layers": 1},
    "sinusoidal": {"positions": config.Sinusoidal(), "num_layers": 1},
    "none": {"positions": config.NoPositions(), "num_kv_heads": 1, "num_layers": 1},
    "groups": {
        "groups": (
            config.Group(2, (LOCAL, config.LayerSpec())),
            config.Group(1, (LOCAL,)),
        )
    },
    "encoder_decoder": {"architecture": "encoder_decoder"},
    "alibi": {"positions": config.Alibi(), "num_layers": 1},
    "relative bias": {"positions": config.RelativeBias(8, 6), "num_layers": 1},
    "relative bias of each layer": {
        "positions": config.RelativeBias(8, 6, per_layer=True),
    },
    "transformer xl": {"positions": config.TransformerXL(), "num_layers": 1},
    "disentangled": {
        "positions": config.Disentangled(3, 6),
        "num_kv_heads": None,
        "num_layers": 1,
    },
    "latent": {"heads": config.Latent(10, 8, 4, 5)},
    "latent without a query rank": {
        "heads": config.Latent(None, 8, 4, 5),
        "num_layers": 1,
    },
    "gpt-oss": {
        "groups": (config.Group(1, (LOCAL, config.LayerSpec())),),
        "sinks": True,
        "biases": "all",
        "mlp": config.Mixture(4, 2, 12, expert=config.ClampedGated()),
    },
    "gemma": {
        "groups": (config.Group(1, (LOCAL, config.LayerSpec())),),
        "softcap": 2.0,
        "output_softcap": 3.0,
        "norm": config.RMSNorm(offset=1.0),
        "norm_position": "both",
        "qk_norm": "head",
    },
    "shared, parallel": {
        "groups": (config.Group(3, shared=True),),
        "residual": "parallel_one_norm",
        "norm": config.LayerNorm(bias=False),
    },
    "olmo": {"norm_position": "output", "qk_norm": "all", "num_layers": 1},
    "partial rotary": {"positions": config.Rotary(fraction=0.5), "head_dim": 8},
    "block sparse": {
        "groups": (config.Group(1, (config.LayerSpec(config.BlockSparse(2, 1, 2)),)),)
    },
}


def decode(model, params, batch, pieces, encoded=None):
    """Logits [B, T, V] of a forward in pieces of these lengths."""
    step = jax.jit(model.apply)
    tokens = batch["tokens"]
    source = 0 if encoded is None else encoded.shape[1]
    cache = empty_cache(model.cfg, len(tokens), SLOTS, jnp.dtype("float32"), source)
    out = []
    for start, stop in itertools.pairwise(np.cumsum([0, *pieces])):
        piece = {
            k: v[:, start:stop] for k, v in batch.items() if not k.startswith("enc")
        } | {k: v for k, v in batch.items() if k.startswith("encoder_seg")}
        logits, cache = step({"params": params}, piece, cache, encoded)
        out.append(logits)
        encoded = None  # its keys and values are in the cache now
    assert cache.slot == tokens.shape[1]
    return jnp.concatenate(out, axis=1)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", MODELS)
def test_cached_decode_is_the_full_forward(name, tiny, random_params):
    cfg = dataclasses.replace(tiny, **MODELS[name])
    model = LanguageModel(cfg)
    rng = np.random.default_rng(0)
    batch = {"tokens": jnp.asarray(rng.integers(40, size=(2, T)))}
    if name == "encoder_decoder":
        batch["encoder_tokens"] = jnp.asarray(rng.integers(40, size=(2, 5)))
        batch["encoder_segment_ids"] = jnp.array([[1] * 5, [1, 1, 1, 0, 0]])
    params = random_params(model, batch)
    want, none = jax.jit(model.apply)({"params": params}, batch)
    assert none is None
    encoded = None
    if name == "encoder_decoder":
        encoded = jax.jit(lambda p, b: model.apply(p, b, method="encode"))(
            {"params": params}, batch
        )
    pieces = (1,) * T if name in ("learned", "sinusoidal") else (4, 1, 1, 1, 1)
    got = decode(model, params, batch, pieces, encoded)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["learned", "groups"])
def test_prompts_of_different_lengths_decode_together(name, tiny, random_params):
    """Padded on the left; each row continues as if it were alone."""
    cfg = dataclasses.replace(tiny, **MODELS[name])
    model = LanguageModel(cfg)
    padding = np.array([0, 2, 3])
    rng = np.random.default_rng(0)
    tokens = rng.integers(40, size=(3, T))
    positions = np.maximum(np.arange(T) - padding[:, None], 0)
    segments = np.int32(np.arange(T) >= padding[:, None])
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    batch = jax.tree.map(jnp.asarray, batch)
    params = random_params(model, batch)
    got = decode(model, params, batch, (4, 1, 1, 1, 1))
    shifted = np.stack([np.roll(t, -n) for t, n in zip(tokens, padding, strict=True)])
    want, _ = jax.jit(model.apply)({"params": params}, {"tokens": jnp.asarray(shifted)})
    for row, n in enumerate(padding):
        np.testing.assert_allclose(
            got[row, n:], want[row, : T - n], rtol=0, atol=1e-5 * np.abs(want).max()
        )


def test_a_cache_holds_what_its_config_says(tiny):
    cfg = dataclasses.replace(tiny, **MODELS["groups"])
    cache = empty_cache(cfg, 3, SLOTS, jnp.dtype("bfloat16"))
    shapes = [[place.own.k_LBSKH.shape for place in group] for group in cache.layers]
    full, ring = (3, SLOTS, cfg.K, cfg.H), (3, 3, cfg.K, cfg.H)
    assert shapes == [[(2, *ring), (2, *full)], [(1, *ring)]]
    assert cache.layers[0][0].own.v_LBSKH.dtype == jnp.bfloat16
    assert not cache.segments_BS.any()


def test_a_decode_step_copies_no_cache(tiny, random_params):
    """A donated cache is updated in place: temporaries stay far below its size."""
    cfg = dataclasses.replace(tiny, num_layers=8)
    model, S = LanguageModel(cfg), 4096
    batch = {"tokens": jnp.zeros((2, 1), int)}
    params = random_params(model, batch)
    cache = empty_cache(cfg, 2, S, jnp.dtype("float32"))
    jax.config.update("jax_disable_most_optimizations", False)
    leaves, tree = jax.tree.flatten(cache)

    def step(params, leaves):
        cache = jax.tree.unflatten(tree, leaves)
        logits, cache = model.apply({"params": params}, batch, cache)
        return logits, jax.tree.leaves(cache)

    compiled = jax.jit(step, donate_argnums=1).lower(params, leaves).compile()
    memory = compiled.memory_analysis()
    cache_bytes = sum(a.nbytes for a in jax.tree.leaves(cache.layers))
    assert memory.alias_size_in_bytes >= cache_bytes
    assert memory.temp_size_in_bytes < cache_bytes / 2
