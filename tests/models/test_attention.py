"""Attention as a function: against jax.nn's, and in blocks against all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.models.attention.implementations import blocked_attention, einsum_attention
from llmjax.models.attention.mask import Mask

B, T, N, H = 2, 13, 4, 6


def qkv(K: int = 2, S: int = T) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(B, T, N, H), (B, S, K, H), (B, S, K, H)]
    return [jnp.float32(rng.standard_normal(s)) for s in shapes]


def rows(packed: bool = True) -> tuple[jax.Array, jax.Array]:
    """Positions and segments: two texts and padding, or padding on the left."""
    if packed:
        segments = [[1] * 6 + [2] * 5 + [0] * 2, [1] * 2 + [2] * 11]
        positions = [[*range(6), *range(5), 0, 1], [*range(2), *range(11)]]
    else:
        segments = [[0] * 3 + [1] * 10, [0] * 8 + [1] * 5]
        positions = [[0] * 3 + [*range(10)], [0] * 8 + [*range(5)]]
    return jnp.array(positions), jnp.array(segments)


def mask(rows=None, causal: bool = True, window: int | None = None) -> Mask:
    positions, segments = (None, None) if rows is None else rows
    return Mask(positions, positions, segments, segments, causal, window)


MASKS = {
    "causal": mask(),
    "window": mask(window=3),
    "packed": mask(rows()),
    "packed window": mask(rows(), window=7),
    "padded on the left": mask(rows(packed=False)),
    "padded on the left, window": mask(rows(packed=False), window=3),
    "bidirectional": mask(rows(), causal=False),
    "bidirectional window": mask(rows(), causal=False, window=3),
}


def run(f, arrays, mask, weights):
    """Value and gradients of a weighted sum; queries that see nothing weigh nothing."""

    def loss(q, k, v, mask):
        out = f(q, k, v, mask)
        return jnp.sum(out * weights), out

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays, mask)


def weights(mask: Mask) -> jax.Array:
    w = jnp.float32(np.random.default_rng(1).standard_normal((B, T, N, H)))
    if mask.q_segments_BT is None:
        return w
    return w * (mask.q_segments_BT > 0)[:, :, None, None]


@pytest.mark.parametrize(
    ("name", "block"), [("packed", 16), ("window", 1), *((name, 5) for name in MASKS)]
)
def test_blocked_is_einsum(name, block):
    mask = MASKS[name]
    w = weights(mask)
    want = run(einsum_attention, qkv(), mask, w)
    got = run(lambda *a: blocked_attention(*a, block=block), qkv(), mask, w)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if a.shape == w.shape:
            a, b = a * (w != 0), b * (w != 0)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_blocked_attends_to_longer_sources():
    arrays = qkv(S=9)
    got = jax.jit(lambda *a: blocked_attention(*a, Mask(), block=4))(*arrays)
    want = jax.jit(lambda *a: einsum_attention(*a, Mask()))(*arrays)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("K", [1, 2, N])
@pytest.mark.parametrize("name", ["causal", "window", "packed", "bidirectional"])
def test_einsum_is_jax_nn(name, K):
    mask, arrays = MASKS[name], qkv(K)
    got = jax.jit(einsum_attention)(*arrays, mask)
    segments, window = mask.q_segments_BT, mask.window
    same = None
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None]) & (segments[:, None] > 0)
        same = same[:, None]
    want = jax.jit(
        lambda q, k, v: jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=same,
            scale=1.0,
            is_causal=mask.causal,
            local_window_size=None if window is None else (window - 1, 0),
        )
    )(*arrays)
    real = weights(mask) != 0
    np.testing.assert_allclose(got * real, want * real, rtol=1e-4, atol=1e-5)


def test_a_row_that_sees_nothing_is_finite():
    empty = mask((rows()[0], jnp.zeros((B, T), int)))
    for f in (einsum_attention, lambda *a: blocked_attention(*a, block=4)):
        (_, out), grads = run(f, qkv(), empty, 1.0)
        assert all(jnp.isfinite(a).all() for a in (out, *grads))


def test_softmax_is_float32_in_bfloat16():
    """1000 and 1004 are apart in float32, and hardly in bfloat16."""
    q = jnp.full((1, 1, 1, 2), 31.625, jnp.bfloat16)
    k = jnp.array([[31.5, 31.625], [31.625, 31.625]], jnp.bfloat16)[None, :, None]
    v = jnp.array([[1, 0], [0, 1]], jnp.bfloat16)[None, :, None]
    got = jax.jit(einsum_attention)(q, k, v, Mask())
    score = np.einsum("h,sh->s", np.float64(q[0, 0, 0]), np.float64(k[0, :, 0]))
    want = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(got[0, 0, 0]), want, rtol=0.01)
