"""Every implementation of attention: what it claims it does, the rest it refuses."""

import functools
import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused_attention

from llmjax import config
from llmjax.models.attention import dot_product
from llmjax.models.attention.implementations import (
    CAPABILITIES,
    attend,
    chosen,
    einsum_attention,
)
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import ScoreModifiers
from llmjax.parallel import mesh as mesh_lib

pytestmark = pytest.mark.usefixtures("quick_compile")

B, T, N, K, H = 2, 13, 4, 2, 8
LAYOUTS = {
    "einsum": config.EinsumAttention(),
    "blocked": config.BlockedAttention(5),
    "chunked": config.ChunkedAttention(5),
    "dot_product": config.DotProductAttention(),
    "splash": config.SplashAttention(),
}


def normal(*shape, seed=0) -> jax.Array:
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


def rows(T=T):
    """Positions and segments of two texts and padding."""
    n = T // 2
    segments = [[1] * n + [2] * (T - n), [1] * (T - n) + [0] * n]
    positions = [[*range(n), *range(T - n)], [*range(T - n), *range(n)]]
    return jnp.array(positions), jnp.array(segments)


def case(feature, T=T) -> tuple[Mask, ScoreModifiers]:
    """A mask and modifiers that ask for this feature and hardly more."""
    positions, segments = rows(T)
    mask, modifiers = Mask(causal=feature != "bidirectional"), ScoreModifiers()
    slopes_N = jnp.linspace(0.1, 1.0, N)

    def bias(q_BT, k_BS):
        distance = jnp.abs(q_BT[:, :, None] - k_BS[:, None])
        return -slopes_N[:, None, None] * distance[:, None]

    if feature == "window":
        mask = mask.with_(window=4)
    elif feature == "blocks":
        mask = mask.with_(blocks=config.BlockSparse(2, 2, 3))
    elif feature == "segments":
        mask = Mask(positions, positions, segments, segments, True)
    elif feature == "prefix":
        mask = mask.with_(k_prefix_BS=jnp.arange(T)[None] < jnp.array([[3], [7]]))
    elif feature == "pairs":
        hidden = jnp.asarray(np.random.default_rng(0).random((B, T, T)) < 0.4)
        mask = mask.with_(hidden_BTS=hidden & (jnp.arange(T) > 3)[:, None])
        mask = mask.with_(hidden_BTS=mask.hidden_BTS.at[:, 5].set(True))  # sees none
    elif feature == "position bias":
        modifiers = ScoreModifiers(bias=bias)
    elif feature == "content bias":
        content = normal(B, N, T, T, seed=5)
        modifiers = ScoreModifiers(bias=lambda q, k: content, reads_content=True)
    elif feature == "softcap":
        modifiers = ScoreModifiers(softcap=0.7)
    elif feature == "sinks":
        modifiers = ScoreModifiers(sinks_N=normal(N))
    elif feature == "dropout":
        modifiers = ScoreModifiers(dropout=nn.Dropout(0.5, deterministic=False))
    return mask, modifiers


FEATURES = sorted(set.union(*CAPABILITIES.values()))


def run(kind, feature, T=T, S=None, K=K):
    """Value and gradients by q, k and v of a weighted sum over real queries."""
    mask, modifiers = case(feature, T)
    layout = config.LayoutConfig(attention=LAYOUTS[kind])
    q = normal(B, T, N, H)
    k, v = (normal(B, S or T, K, H, seed=i) for i in (1, 2))
    if feature == "value size":
        v = v[..., :5]
    weights = normal(B, T, N, v.shape[-1], seed=3)
    if mask.q_segments_BT is not None:
        weights *= (mask.q_segments_BT > 0)[:, :, None, None]

    def loss(q, k, v):
        out = attend(layout, q, k, v, mask, modifiers)
        return jnp.sum(out * weights), out * (weights != 0)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)


@functools.cache
def reference(feature):
    return run("einsum", feature)


@pytest.mark.parametrize(
    "feature", [f for f in FEATURES if f not in ("cross", "dropout")]
)
@pytest.mark.parametrize("kind", ["blocked", "chunked", "dot_product"])
def test_what_it_claims_is_what_einsum_does(kind, feature):
    if feature not in CAPABILITIES[kind]:
        able = [k for k, can in CAPABILITIES.items() if feature in can]
        with pytest.raises(
            ValueError, match=re.escape(f"cannot honour {feature}")
        ) as e:
            run(kind, feature)
        assert all(name in str(e.value).split("asks for; ")[1] for name in able)
        return
    got, want = run(kind, feature), reference(feature)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("feature", sorted(CAPABILITIES["splash"]))
def test_splash_is_einsum(feature):
    """Interpreted, at the smallest size that its blocks take."""
    got, want = run("splash", feature, T=128), run("einsum", feature, T=128)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("feature", [f for f in FEATURES if f != "cross"])
def test_splash_refuses_the_rest(feature):
    if feature in CAPABILITIES["splash"]:
        with pytest.raises(ValueError, match="make data.seq_len a multiple of 128"):
            run("splash", feature)
    else:
        with pytest.raises(ValueError, match=f"cannot honour {feature}"):
            run("splash", feature, T=128)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_sources_of_another_length(kind):
    if "cross" not in CAPABILITIES[kind]:
        with pytest.raises(ValueError, match="cannot honour cross"):
            run(kind, "bidirectional", T=128, S=7)
        return
    got, want = (run(k, "bidirectional", S=7) for k in (kind, "einsum"))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_dropout_is_honoured_or_refused(kind):
    """Half of the weights are dropped and the rest doubled, in expectation the same."""
    layout = config.LayoutConfig(attention=LAYOUTS[kind])
    size = 128 if kind == "splash" else 64
    mask, _ = case("bidirectional")

    class Drops(nn.Module):
        @nn.compact
        def __call__(self, q, k, v):
            modifiers = ScoreModifiers(dropout=nn.Dropout(0.5, deterministic=False))
            return attend(layout, q, k, v, mask, modifiers)

    q = jnp.zeros((64, size, N, H))
    k, v = jnp.zeros((64, size, N, H)), jnp.ones((64, size, N, H))
    rngs = {"dropout": jax.random.key(0)}
    if "dropout" not in CAPABILITIES[kind]:
        with pytest.raises(ValueError, match="cannot honour dropout"):
            Drops().apply({}, q, k, v, rngs=rngs)
        return
    out = np.asarray(Drops().apply({}, q, k, v, rngs=rngs))
    assert abs(out.mean() - 1) < 0.01
    # the mean of 64 weights that are 0 or 2
    assert abs(out.std() - (1 / 64) ** 0.5) < 0.02


@pytest.mark.parametrize(
    ("feature", "own"),
    [
        ("causal", {"is_causal": True}),
        ("bidirectional", {"is_causal": False}),
        ("window", {"is_causal": True, "local_window_size": (3, 0)}),
        ("segments", {"is_causal": True}),
        ("prefix", {"is_causal": False}),
        ("window to both sides", {"is_causal": False}),
    ],
)
def test_what_a_gpu_is_asked_for_is_what_einsum_does(feature, own, monkeypatch):
    """cuDNN's kernel isn't here: XLA is given the arguments that it would get."""
    monkeypatch.setattr(dot_product, "_compute_capability", lambda: 9.0)
    xla = jax.nn.dot_product_attention
    asked = []

    def kernel(q, k, v, bias, mask, *, implementation, **settings):
        asked.append((implementation, settings, mask))
        return xla(q, k, v, bias, mask, **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    mask, _ = case(feature.split()[0], T=16)
    if "both" in feature:
        mask = mask.with_(causal=False)
    q, k, v = (normal(B, 16, n, H, seed=n).astype(jnp.bfloat16) for n in (N, K, K))
    got = dot_product.dot_product_attention(q, k, v, mask)
    ((implementation, settings, given),) = asked
    assert implementation == "cudnn" and settings == {"scale": 1.0} | own
    by_index = {"causal", "bidirectional", "window"}
    assert (given is None) == (feature in by_index)
    want = einsum_attention(q, k, v, mask)
    real = jnp.ones((B, 16)) if mask.q_segments_BT is None else mask.q_segments_BT > 0
    np.testing.assert_allclose(
        np.float32(got)[real > 0], np.float32(want)[real > 0], atol=0.02
    )


@pytest.mark.parametrize(
    ("kind", "capability", "kernel"),
    [
        ("NVIDIA H100 80GB HBM3", "9.0", True),
        ("NVIDIA A100-SXM4-40GB", "8.0", True),
        ("Tesla V100-SXM2-16GB", "7.0", False),
        ("NVIDIA T4", "7.5", False),
    ],
)
def test_a_mesh_elsewhere_chooses_the_kernel(kind, capability, kernel, monkeypatch):
    """Lowered for GPUs that are not here, as their own machine would."""
    monkeypatch.setattr(fused_attention, "check_cudnn_version", lambda: 91002)
    gpu = SimpleNamespace(
        platform="gpu", device_kind=kind, compute_capability=capability
    )
    q = jax.ShapeDtypeStruct((2, 128, 4, 64), jnp.bfloat16)

    def attention(q):
        return dot_product.dot_product_attention(q, q, q, Mask(causal=True))

    def lowered():
        traced = jax.jit(lambda q: attention(q)).trace(q)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    with mesh_lib.targeting(gpu):
        assert ("__cudnn$fmha" in lowered()) == kernel
    assert "__cudnn$fmha" not in lowered()  # this machine has none


@pytest.mark.parametrize(
    ("why", "dtype", "H", "T", "capability", "modifiers", "shards"),
    [
        ("it can", jnp.bfloat16, 8, 16, 8.0, ScoreModifiers(), 1),
        ("no GPU", jnp.bfloat16, 8, 16, 0.0, ScoreModifiers(), 1),
        ("32 bits", jnp.float32, 8, 16, 9.0, ScoreModifiers(), 1),
        ("head size", jnp.bfloat16, 12, 16, 9.0, ScoreModifiers(), 1),
        ("odd length", jnp.bfloat16, 8, 15, 9.0, ScoreModifiers(), 1),
        ("a bias", jnp.bfloat16, 8, 16, 9.0, ScoreModifiers(bias=lambda q, k: 0), 1),
        ("cut rows", jnp.bfloat16, 8, 16, 9.0, ScoreModifiers(), 2),
    ],
)
def test_what_cudnn_cannot_is_xlas(
    why, dtype, H, T, capability, modifiers, shards, monkeypatch
):
    monkeypatch.setattr(dot_product, "_compute_capability", lambda: capability)
    q = jnp.zeros((1, T, 2, H), dtype)
    assert dot_product.fused(q, q, modifiers, shards) == (why == "it can")


def test_chunks_keep_nothing_of_the_size_of_all_scores():
    """Forward and backward; einsum is seen to go past it."""
    jax.config.update("jax_disable_most_optimizations", False)
    T = 1024
    shape = jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32)

    def temporaries(attention):
        layout = config.LayoutConfig(attention=attention)

        def loss(q, k, v):
            return jnp.sum(attend(layout, q, k, v, Mask(causal=True)) ** 2)

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*[shape] * 3).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * 2 * T * T
    assert temporaries(config.EinsumAttention()) >= scores
    assert temporaries(config.ChunkedAttention(64)) < scores / 2


def test_every_kind_has_its_line():
    kinds = {a.kind for a in LAYOUTS.values()}
    assert set(CAPABILITIES) == kinds
    everything = set.union(*CAPABILITIES.values())
    assert CAPABILITIES["einsum"] == everything


@pytest.mark.parametrize(
    ("platform", "features", "T", "kind"),
    [
        ("tpu", {"causal", "segments"}, 256, "splash"),
        ("tpu", {"causal"}, 100, "blocked"),  # no whole blocks of 128
        ("tpu", {"causal", "prefix"}, 256, "blocked"),
        ("gpu", {"causal", "segments"}, 100, "dot_product"),
        ("gpu", {"causal", "sinks"}, 256, "blocked"),
        ("cpu", {"causal"}, 256, "blocked"),
        ("cpu", {"causal", "content bias"}, 256, "einsum"),
    ],
)
def test_auto_is_the_kernel_of_the_devices(platform, features, T, kind):
    auto = config.LayoutConfig(attention=config.AutoAttention(block_q=256))
    with mesh_lib.targeting(SimpleNamespace(platform=platform)):
        attention = chosen(auto, features, T).attention
    assert attention.kind == kind
    assert getattr(attention, "block_q", 256) == 256
