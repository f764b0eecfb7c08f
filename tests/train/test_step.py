"""One update: microbatches, one compilation, donation, dropout, no [B, T, V]."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.config import SGD, Constant, LayoutConfig, LongRope, Rotary
from llmjax.parallel.mesh import use
from llmjax.train import setup
from llmjax.train.step import make_step
from tests.train import toy

PLAIN = toy.change(
    toy.CONFIG,
    optimizer={
        "algorithm": SGD(0.0),
        "schedule": Constant(),
        "learning_rate": 1.0,
        "clip_norm": None,
    },
)


def ragged(rows):
    """Row r keeps 2 r of its tokens: microbatches get unequal counts."""
    rows = {k: v.copy() for k, v in rows.items()}
    for r, segments in enumerate(rows["segment_ids"]):
        segments[2 * r :] = 0
        rows["positions"][r, 2 * r :] = 0
    if "valid" in rows:
        rows["valid"][[0, 3, 4]] = 0
    return rows


def update(config, rows, devices=1):
    program = toy.program(config, devices)
    with use(program.mesh):
        state, out = program.step(program.init(), program.place(rows))
    return jax.device_get((state.params, out))


@pytest.mark.parametrize(
    ("kind", "count", "devices"),
    [("tokens", 2, 4), ("texts", 4, 1), ("texts whose rates follow a length", 4, 1)],
)
def test_microbatches_are_one_batch(kind, count, devices):
    config = PLAIN if kind == "tokens" else toy.classifier(PLAIN)
    if "rates" in kind:
        scaling = LongRope((1.0, 1.2, 1.5, 2.0), (2.0, 4.0, 6.0, 9.0), 10)
        config = toy.change(config, model={"positions": Rotary(scaling=scaling)})
    rows = ragged(toy.batches(config).batch(0))
    whole, (metrics, scalars) = update(config, rows)
    parts = update(toy.change(config, layout={"microbatches": count}), rows, devices)

    def close(path, a, b):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=name)

    jax.tree_util.tree_map_with_path(close, parts[0], whole)
    jax.tree_util.tree_map_with_path(close, parts[1], (metrics, scalars))
    tokens = (rows["segment_ids"] > 0).sum()
    assert metrics["loss"][1] == (tokens if kind == "tokens" else rows["valid"].sum())


def linear(params, frozen, extra, batch, rng):
    """Least squares over the rows of weight 1; extra counts how often it was asked."""
    error = batch["x"] @ params["w"] * frozen - batch["y"]
    weight = batch["weight"]
    total, count = jnp.sum(weight * error**2), jnp.sum(weight)
    return total, count, {"loss": (total, count)}, extra + 1


def test_any_loss_is_divided_once_and_carries_its_extra(program):
    """By hand: w - mean of 2 error x, over rows of which a microbatch may have none."""
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.standard_normal((6, 3)).astype(np.float32),
        "y": rng.standard_normal(6).astype(np.float32),
        "weight": np.float32([1, 0, 0, 1, 0, 1]),
    }
    optimizer = optax.with_extra_args_support(optax.sgd(1.0))
    params = {"w": jnp.ones(3)}
    state = dataclasses.replace(
        program.abstract,
        step=jnp.int32(0),
        params=params,
        frozen=jnp.float32(2.0),
        extra=jnp.int32(0),
        opt_state=optimizer.init(params),
    )
    x, error = batch["x"] * 2, batch["x"].sum(1) * 2 - batch["y"]
    wanted = 1 - np.einsum("b,b,bd->d", batch["weight"], 2 * error, x) / 3
    for microbatches in (1, 3):
        layout = LayoutConfig(microbatches=microbatches)
        step = make_step(linear, optimizer, layout, seed=0)
        new, (metrics, scalars) = jax.jit(step)(state, batch)
        np.testing.assert_allclose(new.params["w"], wanted, rtol=1e-5)
        assert (int(new.step), int(new.extra)) == (1, microbatches)
        assert new.frozen == 2
        np.testing.assert_allclose(
            metrics["loss"][0], (batch["weight"] * error**2).sum(), rtol=1e-5
        )
        np.testing.assert_allclose(
            scalars["grad_norm/w"], np.linalg.norm(1 - wanted), rtol=1e-5
        )
        np.testing.assert_allclose(
            scalars["param_norm/w"], np.linalg.norm(wanted), rtol=1e-5
        )


def test_a_batch_without_a_token_changes_nothing():
    config = toy.change(PLAIN, optimizer={"weight_decay": 0.0})
    rows = toy.batches(config).batch(0)
    rows["segment_ids"][:] = 0
    program = toy.program(config)
    before = jax.device_get(program.init().params)
    with use(program.mesh):
        state, (metrics, _) = program.step(program.init(), program.place(rows))
    toy.assert_same_bits(jax.device_get(state.params), before)
    assert metrics["loss"] == (0, 0)


def test_the_step_compiles_once_and_takes_its_state(noisy, train):
    program = toy.program(noisy)
    state = program.init()
    with use(program.mesh):
        for step in range(3):
            old, batch = state, program.place(train.batch(step))
            state, _ = program.step(state, batch)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert program.step._cache_size() == 1
    assert int(state.step) == 3


def test_dropout_is_a_function_of_the_step(program, train):
    batch = program.place(train.batch(0))

    def loss(step):
        state = program.init()
        with use(program.mesh):
            _, (metrics, _) = program.step(state.replace(step=jnp.int32(step)), batch)
        return float(metrics["loss"][0])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def buffers(V, block):
    """Shapes of float32 arrays over the vocabulary in a compiled step."""
    config = toy.change(PLAIN, model={"vocab_size": V}, layout={"loss_block": block})
    program = toy.program(config)
    batch = program.place(toy.batches(config).batch(0))
    with use(program.mesh):
        text = program.step.lower(program.restorable(), batch).compile().as_text()
    shapes = re.findall(r"f32\[([\d,]+)\]", text)
    sizes = {tuple(map(int, s.split(","))) for s in shapes}
    return {np.prod(s) for s in sizes if V in s}


def test_logits_of_a_whole_batch_never_exist():
    """8 x 16 tokens, V 997 (a prime: no other axis has it); blocks of a quarter."""
    whole = 8 * 16 * 997
    assert whole in buffers(997, 10_000)
    assert max(buffers(997, 4)) < whole


@pytest.mark.parametrize(
    ("platform", "given"),
    [
        ("tpu", {"xla_tpu_scoped_vmem_limit_kib": "98304", "xla_a": "1"}),
        ("gpu", {"xla_gpu_enable_latency_hiding_scheduler": True, "xla_a": "1"}),
        ("cpu", None),
    ],
)
def test_a_compiler_is_given_the_options_that_it_knows(platform, given):
    options = (
        "xla_tpu_scoped_vmem_limit_kib=98304",
        "xla_gpu_enable_latency_hiding_scheduler=true",
        "xla_a=1",
    )
    layout = LayoutConfig(compiler_options=options)
    device = SimpleNamespace(platform=platform)
    assert setup._compiler_options(layout, device) == given
