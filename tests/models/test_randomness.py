"""What is drawn: initial weights, the same however laid out; and dropout."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.multihead import Attention
from llmjax.models.context import Context
from llmjax.models.embedder import Embedder
from llmjax.models.heads.language import LanguageModel
from llmjax.models.transformer import Stack

BATCH = {"tokens": jnp.arange(16).reshape(2, 8)}


def init(cfg, **layout):
    model = LanguageModel(cfg, config.LayoutConfig(**layout))
    return nn.unbox(jax.jit(model.init)(jax.random.key(3), BATCH))["params"]


def test_same_bits_however_laid_out(tiny):
    want = init(tiny)
    for layout in (
        {"unroll": 2, "remat": config.FullRemat()},
        {
            "remat": config.DotsRemat(),
            "attention": config.BlockedAttention(4),
            "precision": config.BFloat16(),
        },
    ):
        jax.tree.map(np.testing.assert_array_equal, init(tiny, **layout), want)


def test_layers_differ_and_have_their_standard_deviations(tiny):
    cfg = dataclasses.replace(tiny, d_model=64, d_ff=128, biases="all")
    params = init(cfg)
    layer = params["transformer"]["stack"]["group_0"]["layer_0"]
    small = cfg.init_std / 2  # / sqrt(2 L) at L = 2
    for place, std in [
        (("attention", "query"), cfg.init_std),
        (("mlp", "gate"), cfg.init_std),
        (("attention", "out"), small),
        (("mlp", "down"), small),
    ]:
        kernel = layer[place[0]][place[1]]["kernel"]
        assert not jnp.array_equal(kernel[0], kernel[1])
        # a standard deviation of n draws is within 1 / sqrt(2 n) of itself
        np.testing.assert_allclose(kernel.std(), std, rtol=5 / (2 * kernel.size) ** 0.5)
        assert not layer[place[0]][place[1]]["bias"].any()
    assert (layer["mlp_norm"]["scale"] == 1).all()


@pytest.fixture(scope="module")
def dropped(tiny):
    return dataclasses.replace(tiny, dropout=0.5, attention_dropout=0.5)


def test_dropout_is_on_with_an_rng_only(tiny, dropped, random_params):
    params = random_params(LanguageModel(tiny), BATCH)
    without, _ = jax.jit(LanguageModel(tiny).apply)({"params": params}, BATCH)
    model = LanguageModel(dropped)
    off, _ = jax.jit(model.apply)({"params": params}, BATCH)
    np.testing.assert_array_equal(off, without)

    @jax.jit
    def run(rng):
        return model.apply({"params": params}, BATCH, rngs={"dropout": rng})[0]

    one, again, other = (run(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - off).mean() > 0.1
    assert jnp.abs(one - other).mean() > 0.1


def within(samples, mean):
    """The mean of samples is this one, to five standard errors."""
    samples = np.float64(samples)
    error = samples.std(0) / len(samples) ** 0.5
    assert (np.abs(samples.mean(0) - mean) <= 5 * error + 1e-6).all()


def test_dropout_keeps_expectations(dropped, random_params):
    """Where what follows is linear: the embeddings, and the weights of attention."""
    layout, positions = config.LayoutConfig(), jnp.arange(4)[None]
    x = jnp.float32(np.random.default_rng(0).standard_normal((1, 4, dropped.d_model)))
    attend = x, Context(Mask(causal=True), positions)
    cases = [
        (Embedder(dropped, layout, own_table=False), (x, positions), lambda y: y),
        (Attention(dropped, layout, config.LayerSpec()), attend, lambda y: y[0]),
    ]
    for module, args, first in cases:
        params = {"params": random_params(module, *args)}

        @jax.jit
        def sample(rngs, module=module, args=args, first=first, params=params):
            def one(rng):
                return first(module.apply(params, *args, rngs={"dropout": rng}))

            return jax.vmap(one)(rngs)

        samples = sample(jax.random.split(jax.random.key(0), 1000))
        mean = first(jax.jit(module.apply)(params, *args))
        assert jnp.abs(samples - mean).max() > 0.1
        within(samples, mean)


def test_every_dropout_is_a_draw_of_its_own(dropped):
    """Both halves of two layers add one everywhere: 0 to 4 of them are kept."""
    cfg = dataclasses.replace(dropped, biases="all", attention_dropout=0.0)
    layout, positions = config.LayoutConfig(), jnp.zeros((4, 8), int)
    stack = Stack(cfg, layout, cfg.layers)
    args = jnp.zeros((4, 8, cfg.d_model)), Context(Mask(causal=True), positions)
    shapes = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), *args))

    def leaf(path, shape):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.full(shape.shape, path.endswith(("out/bias", "down/bias", "scale")))

    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    params = jax.tree.map(jnp.float32, params)
    out, _ = jax.jit(stack.apply)(params, *args, rngs={"dropout": jax.random.key(0)})
    one = jnp.min(jnp.where(out > 0, out, jnp.inf), axis=-1, keepdims=True)
    assert set(np.unique(np.round(out / one)).tolist()) == {0, 1, 2, 3, 4}
