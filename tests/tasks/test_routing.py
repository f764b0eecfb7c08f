"""What routers add to a loss, and one update of mixtures: meshes, balance biases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    SGD,
    BalanceBias,
    BalanceLoss,
    Constant,
    Group,
    LayerSpec,
    LayoutConfig,
    Mixture,
)
from llmjax.models.experts.mixture import RouterSums, router_loss
from llmjax.models.forward import forward
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.mesh import use
from llmjax.tasks.routing import routing_loss
from llmjax.tasks.task import loss_of
from llmjax.train.state import State
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")

RATE = 0.5
BIASED = Mixture(8, 2, 16, balance=BalanceBias(RATE), z_loss=0.1)


def sums_of(model, params, batch):
    """The sums of a model's routers, without dropout."""
    return forward(model, {"params": params}, batch)[1]


def mixed(mlp, **parts):
    """The toy run with two layers of mixtures and an update that keeps proportions."""
    optimizer = {"algorithm": SGD(0.0), "schedule": Constant(), "learning_rate": 1.0}
    return toy.change(toy.CONFIG, model={"mlp": mlp}, optimizer=optimizer, **parts)


def batch(config):
    """Rows of which every other one is mostly padding."""
    rows = toy.batches(config).batch(0)
    rows["segment_ids"][1::2, 4:] = 0
    return rows


def weights(shapes):
    """Of any model; a leaf is a function of its name, balance biases are 0."""

    def leaf(path, shape):
        name = jax.tree_util.keystr(path)
        if "balance" in name:
            return np.zeros(shape.shape, np.float32)
        drawn = np.random.default_rng([*name.encode()]).standard_normal(shape.shape)
        return np.float32(("scale" in name) + 0.3 * drawn)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def update(config, devices=1):
    """Weights before and after one clipped step, and its metrics."""
    program = toy.program(config, devices)
    before = weights(program.abstract.params)
    state = State(jnp.int32(0), before, {}, {}, program.optimizer.init(before))
    state = jax.device_put(state, program.shardings)
    with use(program.mesh):
        state, (metrics, scalars) = program.step(state, program.place(batch(config)))
    assert scalars["grad_norm"] > 2 * config.optimizer.clip_norm
    return before, state.params, metrics


def test_every_layer_has_the_loss_of_its_own_mixture(tiny, random_params):
    """Two stacks, groups, patterns and repeats; each mixture has its own E."""
    mixtures = [Mixture(E, 2, 6, z_loss=0.1 * E) for E in (3, 4, 5)]
    encoder, middle, last = (LayerSpec(mlp=m) for m in mixtures)
    cfg = dataclasses.replace(
        tiny,
        architecture="encoder_decoder",
        encoder_groups=(Group(2, (LayerSpec(), encoder)),),
        groups=(Group(1, (middle, LayerSpec())), Group(3, (last,), shared=True)),
    )
    tokens = jnp.arange(8).reshape(2, 4)
    batch = {"tokens": tokens, "encoder_tokens": tokens}
    model = LanguageModel(cfg)
    params = random_params(model, batch)
    sums = jax.jit(lambda p: sums_of(model, p, batch))(params)
    found = jax.tree.leaves(sums, is_leaf=lambda x: isinstance(x, RouterSums))
    by_experts = {s.load_E.shape[-1]: s for s in found}
    layers = {E: s.tokens.shape for E, s in by_experts.items()}
    assert layers == {3: (2,), 4: (1,), 5: (3,)}
    wanted = sum(router_loss(m, by_experts[m.num_experts]).sum() for m in mixtures)
    np.testing.assert_allclose(routing_loss(cfg, sums), wanted, rtol=1e-6)


def test_the_routers_loss_is_the_mean_token_s(random_params):
    """Added once per real token, beside the cross-entropy that is printed."""
    config = mixed(Mixture(4, 2, 8, balance=BalanceLoss(2.0), z_loss=0.3))
    rows = jax.tree.map(jnp.asarray, batch(config))
    task = toy.task(config)
    model = task.model(config.model, LayoutConfig())
    params = random_params(model, rows)
    total, count, metrics, _ = jax.jit(loss_of(task, model))(params, {}, {}, rows, None)
    sums = jax.jit(lambda p: sums_of(model, p, rows))(params)
    wanted = float(routing_loss(config.model, sums)) * count
    assert wanted > 4 * count  # at least the weight for each of two mixtures
    np.testing.assert_allclose(metrics["router_loss"], (wanted, count), rtol=1e-5)
    np.testing.assert_allclose(total, metrics["loss"][0] + wanted, rtol=1e-5)


def mixture(params):
    return params["transformer"]["stack"]["group_0"]["layer_0"]["mlp"]


def test_an_update_is_the_same_with_experts_apart():
    """On one device, and on eight with two experts in each of four places."""
    before, one, metrics = update(mixed(BIASED))
    there = mixed(BIASED, layout={"data": 2, "expert": 4})
    _, eight, metrics_there = update(there, 8)
    shards = mixture(eight)["experts"]["gate"]["kernel"].addressable_shards
    assert {s.data.shape for s in shards} == {(2, 2, 16, 16)}
    assert {s.index[1].start for s in shards} == {0, 2, 4, 6}

    def close(path, a, b, start):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(b - start).max() > 1e-3, name

    jax.tree_util.tree_map_with_path(close, eight, one, before)
    for name, (total, count) in metrics.items():
        np.testing.assert_allclose(
            metrics_there[name], (total, count), rtol=1e-5, err_msg=name
        )


def test_a_balance_bias_moves_by_its_rate_towards_fair_loads():
    """Of two microbatches each tells its own sign, and tokens weigh them."""
    config = mixed(BIASED)
    model, rows = LanguageModel(config.model), batch(config)
    before, after, _ = update(config)
    loads, tokens = [], []
    count = jax.jit(lambda p, b: sums_of(model, p, b))
    for start in (0, 1):
        half = {k: jnp.asarray(v[start::2]) for k, v in rows.items()}
        sums = mixture(count(before, half))["sums"]
        loads.append(np.asarray(sums.load_E))
        tokens.append(int((half["segment_ids"] > 0).sum()))
        assert (loads[-1].sum(axis=1) == 2 * tokens[-1]).all()

    def move(load_LE, tokens):
        return RATE * np.sign(tokens * 2 / 8 - load_LE)

    whole = move(sum(loads), sum(tokens))
    assert {RATE, -RATE} <= set(whole.flat)
    np.testing.assert_array_equal(mixture(after)["balance"], whole)
    halves = [move(*half) for half in zip(loads, tokens, strict=True)]
    assert (halves[0] != halves[1]).any() and tokens[0] > tokens[1]
    _, after, _ = update(mixed(BIASED, layout={"microbatches": 2}))
    wanted = np.average(halves, axis=0, weights=tokens)
    np.testing.assert_allclose(mixture(after)["balance"], wanted, rtol=1e-5)


def test_nothing_else_moves_with_a_balance_bias():
    """As without one, though the gradients are clipped by their norm."""
    without = dataclasses.replace(BIASED, balance=BalanceLoss(0.0))
    _, want, _ = update(mixed(without))
    got = jax.device_get(update(mixed(BIASED))[1])
    mixture(got).pop("balance")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, want
    )
