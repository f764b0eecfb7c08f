"""The leaves: norms, positions, activations, pooling, against others' and formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.heads.classifier import SequenceClassifier, pool
from llmjax.models.layers import ACTIVATIONS, Norm
from llmjax.models.positions.rotary import rotary
from llmjax.models.positions.sinusoidal import sinusoidal
from tests.models import reference


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize(
    ("ours", "flaxs"),
    [
        (config.LayerNorm(1e-3), nn.LayerNorm(epsilon=1e-3)),
        (
            config.LayerNorm(1e-3, bias=False, scale=False),
            nn.LayerNorm(epsilon=1e-3, use_bias=False, use_scale=False),
        ),
        (config.RMSNorm(1e-3), nn.RMSNorm(epsilon=1e-3)),
    ],
)
def test_norms_are_flax_linens_in_value_and_gradient(ours, flaxs):
    x = 3 * normal(2, 5, 16) + 1
    weights = normal(2, 5, 16, seed=1)
    names = [n for n in ("scale", "bias") if getattr(ours, n, n == "scale")]
    params = {n: 1 + normal(16, seed=i) for i, n in enumerate(names)}

    def run(module):
        def loss(params, x):
            y = module.apply({"params": params}, x)
            return jnp.sum(y * weights), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    got, want = jax.tree.leaves(run(Norm(ours))), jax.tree.leaves(run(flaxs))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [config.LayerNorm(), config.RMSNorm()])
def test_norms_keep_bfloat16_but_compute_in_float32(norm):
    x = (100 + normal(4, 256)).astype(jnp.bfloat16)  # a variance lost in bfloat16
    params = {"scale": jnp.ones(256)}
    if norm.kind == "layer_norm":
        params["bias"] = jnp.zeros(256)
    apply = jax.jit(Norm(norm).apply)
    got = apply({"params": params}, x)
    want = apply({"params": params}, x.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name):
    x = jnp.linspace(-4, 4, 33)
    want = reference.ACTIVATIONS[name](np.float64(x))
    np.testing.assert_allclose(ACTIVATIONS[name](x), want, rtol=1e-4, atol=1e-5)


def test_rotary_is_a_multiplication_of_complex_numbers():
    x_BTNH = normal(2, 5, 3, 8)
    positions = np.array([[0, 1, 2, 3, 4], [0, 1, 0, 1, 700]])
    got = jax.jit(rotary, static_argnums=(2, 3))(
        x_BTNH, jnp.asarray(positions), config.Rotary(100.0), 8
    )
    for b in range(2):
        for n in range(3):
            want = reference.turn(np.float64(x_BTNH[b, :, n]), positions[b], 100.0)
            np.testing.assert_allclose(got[b, :, n], want, atol=1e-4)


def test_rotary_scores_depend_on_distance_only():
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)
    turn = jax.jit(lambda x, t: rotary(x, t[None, None], config.Rotary(), 8))

    def score(t, s):
        return jnp.sum(turn(q, jnp.int32(t)) * turn(k, jnp.int32(s)))

    np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3
    np.testing.assert_allclose(score(0, 0), jnp.sum(q * k), rtol=1e-6)


@pytest.mark.parametrize("size", [8, 7])
def test_sinusoidal_is_its_formula(size):
    positions = np.array([[0, 1, 5, 200]])
    got = jax.jit(sinusoidal, static_argnums=(1, 2, 3))(
        jnp.asarray(positions), size, 1000.0, "interleaved"
    )
    want = reference.sinusoids(positions[0], size, 1000.0)
    np.testing.assert_allclose(got[0], want, atol=1e-4)


LENGTHS = np.array([5, 1, 3])


@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_pool_takes_real_tokens_only(how):
    x = normal(3, 5, 4)
    real = np.arange(5) < LENGTHS[:, None]
    got = jax.jit(pool, static_argnums=2)(x, jnp.asarray(real)[:, None], how)[:, 0]
    rows = [np.float64(row[:n]) for row, n in zip(x, LENGTHS, strict=True)]
    picks = {
        "mean": lambda r: r.mean(0),
        "first": lambda r: r[0],
        "last": lambda r: r[-1],
    }
    want = np.stack([picks[how](r) for r in rows])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "last"])
def test_classifier_does_not_see_padding(how, tiny, random_params):
    model = SequenceClassifier(tiny, 3, how)
    tokens = jnp.arange(15).reshape(3, 5)
    segments = jnp.int32(np.arange(5) < LENGTHS[:, None])
    batch = {"tokens": tokens, "segment_ids": segments}
    params = random_params(model, batch)
    apply = jax.jit(model.apply)
    one = apply({"params": params}, batch)
    other = jnp.where(segments > 0, tokens, 39)
    two = apply({"params": params}, batch | {"tokens": other})
    assert one.shape == (3, 3)
    assert one.dtype == jnp.float32
    np.testing.assert_array_equal(one, two)
    seen = apply({"params": params}, batch | {"segment_ids": jnp.ones((3, 5), int)})
    assert jnp.abs(one - seen)[1:].min() > 1e-3
