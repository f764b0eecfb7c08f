"""Stochastic rounding: right in the mean, and small updates are not lost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llmjax.config import BFloat16, LayoutConfig
from llmjax.train.optimizers import rounding
from llmjax.train.step import make_step
from tests.train import tiny, toy

BFLOAT = LayoutConfig(precision=BFloat16(masters="bfloat16"))


def test_the_mean_of_many_roundings_is_the_number():
    """Of 2^14 each; neighbours lie 2^-8 apart, so the mean's error is about 2^-16."""
    x = np.float32([1 + 2**-10, -1 - 3 * 2**-10, 1.0, 300.7, -1e-30, 0.0])
    keys = jax.random.split(jax.random.key(0), 2**14)
    rounded = jax.vmap(rounding.stochastic_round, (None, 0))(jnp.asarray(x), keys)
    assert rounded.dtype == jnp.bfloat16
    rounded = np.float64(rounded.astype(jnp.float32))
    np.testing.assert_allclose(rounded.mean(0), x, rtol=1e-4)
    below = np.float32([1, -1 - 2**-7, 1, 300, 0, 0])
    above = np.float32([1 + 2**-7, -1, 1, 302, 0, 0])
    for i in range(4):
        assert set(rounded[:, i]) == {below[i], above[i]}


def test_what_is_no_number_stays():
    x = jnp.float32([jnp.inf, -jnp.inf, jnp.nan])
    rounded = rounding.stochastic_round(x, jax.random.key(0)).astype(jnp.float32)
    np.testing.assert_array_equal(rounded, x)


def test_updates_below_half_a_step_add_up():
    """200 updates of 2^-12 from 1, whose neighbour above is 1 + 2^-7: to nearest, 0."""

    def loss(params, frozen, extra, batch, rng):
        total = -jnp.sum(params["w"].astype(jnp.float32))
        return total, jnp.float32(1), {}, extra

    optimizer = optax.with_extra_args_support(optax.sgd(2.0**-12))
    step = make_step(loss, optimizer, BFLOAT, seed=0)
    state = tiny.start(optimizer, BFLOAT)
    state = state.replace(params={"w": jnp.ones(4096, jnp.bfloat16)})
    state, _ = jax.lax.scan(lambda s, _: (step(s, {})[0], None), state, length=200)
    moved = np.asarray(state.params["w"].astype(jnp.float32)) - 1
    assert state.params["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(moved.mean(), 200 * 2.0**-12, rtol=0.05)
    assert moved.std() > 0


def test_weights_in_bfloat16_learn_as_in_float32():
    batches = [tiny.data(step) for step in range(150)]
    state, rows = tiny.train(optax.adam(0.01), BFLOAT, batches)
    _, wanted = tiny.train(optax.adam(0.01), LayoutConfig(), batches)
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    moments = state.opt_state[0]
    assert moments.mu["in"].dtype == moments.nu["in"].dtype == jnp.float32
    end, want = (np.mean([r["loss"] for r in x[-20:]]) for x in (rows, wanted))
    assert want < wanted[0]["loss"] / 5
    assert end < 1.3 * want
    again, _ = tiny.train(optax.adam(0.01), BFLOAT, batches)
    toy.assert_same_bits(again.params, state.params)
