"""One stack however it is laid out: scanned, unrolled, rematerialised, in bfloat16."""

import collections
import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.attention.mask import Mask
from llmjax.models.context import Context
from llmjax.models.heads.language import LanguageModel
from llmjax.models.layers import Norm
from llmjax.models.stack import Block

LAYERS = 3
REMATS = (config.NoRemat(), config.DotsRemat(), config.FullRemat())
BATCH = {"tokens": jnp.arange(16).reshape(2, 8)}


@pytest.fixture(scope="module")
def cfg(tiny):
    return dataclasses.replace(tiny, num_layers=LAYERS)


@pytest.fixture(scope="module")
def params(cfg, random_params):
    return random_params(LanguageModel(cfg), BATCH)


def loss(cfg, **layout):
    model = LanguageModel(cfg, config.LayoutConfig(**layout))

    def f(params):
        logits, _ = model.apply({"params": params}, BATCH)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, :, 7])

    return f


@pytest.fixture(scope="module")
def plain(cfg, params):
    return jax.jit(jax.value_and_grad(loss(cfg)))(params)


@pytest.mark.parametrize(
    "layout",
    [
        {"unroll": 2},
        {"unroll": LAYERS},
        {"remat": config.FullRemat()},
        {"remat": config.DotsRemat()},
    ],
)
def test_loss_and_gradient_are_the_plain_ones(layout, cfg, params, plain):
    got = jax.jit(jax.value_and_grad(loss(cfg, **layout)))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def primitives(jaxpr) -> collections.Counter:
    """How often each primitive stands in a jaxpr and in those inside it."""
    count = collections.Counter()
    for eqn in jaxpr.eqns:
        count[eqn.primitive.name] += 1
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                count += primitives(inner)
    return count


def test_remat_computes_again_and_unroll_repeats(cfg, params):
    def dots(**layout):
        grad = jax.grad(loss(cfg, **layout))
        return primitives(jax.make_jaxpr(grad)(params).jaxpr)["dot_general"]

    none, some, full = (dots(remat=r) for r in REMATS)
    # a block has 7 matrices and 2 products in attention: full computes again all of
    # them but the last, whose result no gradient needs; dots only the products
    assert none < some < full
    assert full - none >= 7
    assert some - none <= 2


def test_remat_saves_less(cfg, params):
    def saved(**layout):
        _, vjp = jax.eval_shape(lambda p: jax.vjp(loss(cfg, **layout), p), params)
        return sum(a.size for a in jax.tree.leaves(vjp))

    none, some, full = (saved(remat=r) for r in REMATS)
    assert full < some < none


def test_scan_is_layer_by_layer(cfg, params):
    """Block after block, each with its slice of the stacked parameters."""
    layout, tokens = config.LayoutConfig(), BATCH["tokens"]
    positions = jnp.broadcast_to(jnp.arange(8), tokens.shape)
    p = params["transformer"]

    @jax.jit
    def by_hand(p):
        x = p["embedder"]["table"][tokens]
        block = Block(cfg, layout, config.LayerSpec())
        context = Context(Mask(causal=True), positions)
        for i in range(LAYERS):
            layer = jax.tree.map(
                operator.itemgetter(i), p["stack"]["group_0"]["layer_0"]
            )
            x, _ = block.apply({"params": layer}, x, context)
        return Norm(cfg.norm).apply({"params": p["stack"]["final_norm"]}, x)

    def hidden(params):
        return LanguageModel(cfg).apply({"params": params}, BATCH, method="hidden")

    np.testing.assert_allclose(
        jax.jit(hidden)(params), by_hand(p), rtol=1e-4, atol=1e-5
    )


def test_bfloat16_computes_in_it_and_keeps_float32_masters(cfg, params, plain):
    model = LanguageModel(cfg, config.LayoutConfig(precision=config.BFloat16()))

    def run(params):
        outputs = model.apply({"params": params}, BATCH, method="outputs")
        return (
            outputs.x_BTM,
            outputs.table_VM,
            model.apply({"params": params}, BATCH)[0],
        )

    x, table, logits = jax.eval_shape(run, params)
    assert (x.dtype, table.dtype, logits.dtype) == ("bfloat16", "float32", "float32")
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    assert {a.dtype.name for a in jax.tree.leaves(shapes)} == {"float32"}
    half = loss(cfg, precision=config.BFloat16())
    value, grads = jax.jit(jax.value_and_grad(half))(params)
    assert {g.dtype.name for g in jax.tree.leaves(grads)} == {"float32"}
    assert value != plain[0]
    np.testing.assert_allclose(value, plain[0], rtol=0.02)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(plain[1]), strict=True):
        assert jnp.linalg.norm(a - b) < 0.1 * jnp.linalg.norm(b)


@pytest.mark.parametrize("K", [1, 2])
def test_grouped_heads_are_heads_that_share_keys(K, tiny, random_params):
    grouped = dataclasses.replace(tiny, num_kv_heads=K, num_layers=1)
    multi = dataclasses.replace(tiny, num_kv_heads=None, num_layers=1)
    params = random_params(LanguageModel(grouped), BATCH)

    def widen(path, a):
        own = any(f"['{n}']" in jax.tree_util.keystr(path) for n in ("key", "value"))
        return jnp.repeat(a, tiny.num_heads // K, axis=2) if own else a  # [L, D, K, H]

    wide = jax.tree_util.tree_map_with_path(widen, params)
    got, _ = jax.jit(LanguageModel(grouped).apply)({"params": params}, BATCH)
    want, _ = jax.jit(LanguageModel(multi).apply)({"params": wide}, BATCH)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
