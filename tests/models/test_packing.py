"""Packed = unpacked and padded = not, in logits and in gradients, for every mask."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.attention.implementations import CAPABILITIES
from llmjax.models.heads.language import LanguageModel

LENGTHS = (5, 3, 4, 6, 1, 4)  # two rows of 12: 5 + 3 + 4, and 6 + 1 + 4 + padding
TEXTS = [np.random.default_rng(i).integers(40, size=n) for i, n in enumerate(LENGTHS)]
ROWS = [(0, 1, 2), (3, 4, 5)]

LOCAL = config.LayerSpec(config.SlidingWindow(3))
MODELS = {
    "causal": {"positions": config.Learned(12), "num_layers": 1},
    "bidirectional": {"architecture": "encoder", "num_layers": 1},
    "window": {"groups": (config.Group(1, (LOCAL,)),)},
    "sinusoidal": {"positions": config.Sinusoidal(), "num_layers": 1},
    "alibi": {"positions": config.Alibi(), "num_layers": 1},
    "relative bias": {"positions": config.RelativeBias(8, 6), "num_layers": 1},
    "relative bias, bidirectional": {
        "positions": config.RelativeBias(8, 6),
        "architecture": "encoder",
        "num_layers": 1,
    },
    "transformer xl": {
        "positions": config.TransformerXL(segments=True),
        "architecture": "encoder",
        "num_layers": 1,
    },
    "disentangled": {
        "positions": config.Disentangled(3, 6),
        "architecture": "encoder",
        "num_kv_heads": None,
        "num_layers": 1,
    },
    "latent": {"heads": config.Latent(10, 8, 4, 5), "num_layers": 1},
    "block sparse": {
        "groups": (config.Group(1, (config.LayerSpec(config.BlockSparse(2, 1, 2)),)),)
    },
    "softcap, sinks": {"softcap": 2.0, "sinks": True, "num_layers": 1},
    "mixture": {"mlp": config.Mixture(4, 2, 12), "num_layers": 1},
}
SEGMENTED = {
    "einsum": config.EinsumAttention(),
    "blocked": config.BlockedAttention(5),
    "chunked": config.ChunkedAttention(5),
    "dot_product": config.DotProductAttention(),
}
# what a model asks of its attention besides a mask
TERMS = {
    "alibi": "position bias",
    "relative bias": "position bias",
    "relative bias, bidirectional": "position bias",
    "transformer xl": "content bias",
    "disentangled": "content bias",
    "softcap, sinks": "sinks",
    "latent": "value size",
}


def place(rows, width: int) -> tuple[dict[str, jax.Array], list[tuple[int, slice]]]:
    """A batch with these texts in these rows, and where each text came to lie."""
    tokens, positions, segments = np.zeros((3, len(rows), width), np.int32)
    places = {}
    for b, texts in enumerate(rows):
        start = 0
        for number, i in enumerate(texts):
            at = slice(start, start + LENGTHS[i])
            tokens[b, at], segments[b, at] = TEXTS[i], number + 1
            positions[b, at] = np.arange(LENGTHS[i])
            places[i], start = (b, at), at.stop
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    return jax.tree.map(jnp.asarray, batch), [places[i] for i in range(len(TEXTS))]


def run(cfg, layout, params, batch, places):
    """Each text's logits, and the gradient of one loss over all texts."""
    weights_BTV = np.zeros((*batch["tokens"].shape, cfg.vocab_size), np.float32)
    for i, place in enumerate(places):
        weights_BTV[place] = np.random.default_rng(10 + i).standard_normal(
            weights_BTV[place].shape
        )

    def loss(params):
        logits, _ = LanguageModel(cfg, layout).apply({"params": params}, batch)
        return jnp.sum(logits * weights_BTV), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    return [logits[place] for place in places], grads


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", MODELS)
def test_packed_is_unpacked(name, tiny, random_params):
    cfg = dataclasses.replace(tiny, **MODELS[name])
    alone = place([(i,) for i in range(len(TEXTS))], max(LENGTHS))
    params = random_params(LanguageModel(cfg), alone[0])
    want = run(cfg, config.LayoutConfig(), params, *alone)
    for kind, attention in SEGMENTED.items():
        others = kind in ("einsum", "blocked") or name in ("causal", "window")
        if not others or TERMS.get(name, "segments") not in CAPABILITIES[kind]:
            continue  # tests/proofs/packing.py holds each combination
        layout = config.LayoutConfig(attention=attention)
        got = run(cfg, layout, params, *place(ROWS, 12))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            scale = np.abs(b).max()
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("causal", config.EinsumAttention()),
        ("bidirectional", config.EinsumAttention()),
        ("window", config.BlockedAttention(4)),
    ],
)
def test_padding_on_either_side_changes_nothing(name, attention, tiny, random_params):
    cfg = dataclasses.replace(tiny, **MODELS[name])
    model = LanguageModel(cfg, config.LayoutConfig(attention=attention))
    tokens, n, width = TEXTS[0][None], LENGTHS[0], 9
    apply = jax.jit(model.apply)
    params = random_params(model, {"tokens": jnp.asarray(tokens)})
    want, _ = apply({"params": params}, {"tokens": jnp.asarray(tokens)})
    for at in (slice(0, n), slice(width - n, width)):
        batch = {k: np.full((1, width), 7) for k in ("tokens", "positions")}
        batch["segment_ids"] = np.zeros((1, width), int)
        batch["tokens"][:, at], batch["segment_ids"][:, at] = tokens, 1
        batch["positions"] = np.maximum(np.arange(width) - at.start, 0)[None]
        got, _ = apply({"params": params}, jax.tree.map(jnp.asarray, batch))
        np.testing.assert_allclose(got[:, at], want, rtol=1e-4, atol=1e-5)


def test_padding_of_the_source_changes_nothing(tiny, random_params):
    cfg = dataclasses.replace(tiny, architecture="encoder_decoder", num_layers=1)
    model = LanguageModel(cfg)
    target = {"tokens": jnp.asarray(TEXTS[3][None])}
    source = jnp.asarray(TEXTS[0][None])
    alone = target | {"encoder_tokens": source}
    params = random_params(model, alone)
    apply = jax.jit(model.apply)
    want, _ = apply({"params": params}, alone)
    padded = target | {
        "encoder_tokens": jnp.pad(source, ((0, 0), (0, 3)), constant_values=9),
        "encoder_segment_ids": jnp.array([[1] * 5 + [0] * 3]),
    }
    got, _ = apply({"params": params}, padded)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
