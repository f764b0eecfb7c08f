"""Float16: an overflow is skipped, the scale recovers, the run ends as in float32."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.config import Float16, LayoutConfig, LossScale
from llmjax.parallel.mesh import use
from llmjax.train import loop, loss_scale
from llmjax.train.gradient import value_and_grad
from llmjax.train.metrics import log, writers
from llmjax.train.step import make_step
from tests.train import tiny, toy

ADAM = optax.adam(0.01)


def half(microbatches=1, **scale):
    return LayoutConfig(
        precision=Float16(LossScale(**scale)), microbatches=microbatches
    )


def test_the_scale_halves_at_an_overflow_and_doubles_after_an_interval():
    config = LossScale(initial=4.0, growth_interval=3)
    scale = loss_scale.initial(config)[loss_scale.KEY]
    seen = []
    for finite in (0, 1, 1, 1, 1, 0, 0, 0, 0, 1):
        scale = loss_scale.adjusted(scale, jnp.bool_(finite), config)
        seen.append((float(scale.value), int(scale.good), int(scale.skipped)))
    assert seen == [
        (2, 0, 1),
        (2, 1, 1),
        (2, 2, 1),
        (4, 0, 1),
        (4, 1, 1),
        (2, 0, 2),
        (1, 0, 3),
        (1, 0, 4),  # not below the floor
        (1, 0, 5),
        (1, 1, 5),
    ]


@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_planted_overflow_is_skipped_and_the_run_ends_as_in_float32(microbatches):
    """A batch beyond float16 at step 40, a scale that begins far too high."""
    batches = [tiny.data(step) for step in range(150)]
    planted = [dict(batch) for batch in batches]
    planted[40]["y"] = planted[40]["y"] + np.float32(1e5)
    layout = half(microbatches, initial=2.0**24, growth_interval=10)
    state, rows = tiny.train(ADAM, layout, planted)
    assert int(state.step) == 150
    skipped = int(state.extra[loss_scale.KEY].skipped)
    assert rows[-1]["skipped"] == skipped
    assert rows[40]["skipped"] == rows[39]["skipped"] + 1 > rows[0]["skipped"] == 1
    assert np.max(np.diff([row["loss_scale"] for row in rows])) > 0
    assert all(math.isfinite(v) for row in rows for v in row.values())
    counts = [0, *(int(row["skipped"]) for row in rows)]
    used = [i for i in range(150) if counts[i] == counts[i + 1]]
    _, wanted = tiny.train(ADAM, LayoutConfig(), [batches[i] for i in used])
    losses = [rows[i]["loss"] for i in used]
    np.testing.assert_allclose(losses, [row["loss"] for row in wanted], rtol=0.05)
    assert losses[-1] < losses[0] / 5


def test_an_overflow_leaves_weights_and_optimizer_as_they_were():
    batch = tiny.data(0)
    batch["x"] *= np.float32(1e6)  # infinite in float16, and the loss not a number
    layout = half(initial=8.0)
    optimizer = optax.chain(ADAM, optax.ema(0.9))
    state, (row,) = tiny.train(optimizer, layout, [batch])
    want = tiny.start(optimizer, layout)
    toy.assert_same_bits((state.params, state.opt_state), (want.params, want.opt_state))
    assert (int(state.step), float(state.extra[loss_scale.KEY].value)) == (1, 4)
    assert (row["skipped"], row["grad_norm"], row["loss"]) == (1, 0, 0)


def test_at_the_lowest_scale_the_norm_is_left_for_the_log_to_find():
    batch = tiny.data(0)
    batch["x"] *= np.float32(1e6)
    _, rows = tiny.train(ADAM, half(initial=2.0), [batch, batch])
    assert [math.isfinite(row["grad_norm"]) for row in rows] == [True, False]


def test_the_remedy_of_an_overflow_is_another_precision():
    run = toy.change(toy.CONFIG, layout={"precision": Float16()})
    assert "set layout.precision.kind to 'bfloat16' or 'float32'" in log.remedy(run)
    assert "optimizer.learning_rate" not in log.remedy(run)
    assert "optimizer.learning_rate" in log.remedy(toy.CONFIG)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_gradients_are_those_of_float32(microbatches):
    batch = tiny.data(0)
    _, (want,) = tiny.train(ADAM, LayoutConfig(), [batch])
    _, (got,) = tiny.train(ADAM, half(microbatches), [batch])
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=0.01), name
    assert (got["loss_scale"], got["skipped"]) == (2.0**15, 0)


def test_an_estimator_sees_gradients_that_are_not_scaled():
    """One that clips each example's gradient clips as in float32."""

    def clipped(loss):
        def one(params, frozen, extra, batch, key, i):
            row = jax.tree.map(lambda x: x[i][None], batch)
            grads, *_ = value_and_grad(loss)(params, frozen, extra, row, key)
            scale = jnp.minimum(1, 0.1 / optax.tree.norm(grads))
            return jax.tree.map(lambda g: g * scale, grads)

        def gradient(params, frozen, extra, batch, key):
            each = jax.lax.map(
                lambda i: one(params, frozen, extra, batch, key, i), jnp.arange(8)
            )
            grads = jax.tree.map(lambda g: g.sum(axis=0), each)
            return grads, jnp.float32(8), {}, extra

        return gradient

    optimizer = optax.with_extra_args_support(ADAM)
    norms = []
    for layout in (LayoutConfig(), half(initial=2.0**10)):
        scaling = loss_scale.of(layout.precision)
        loss = scaling.loss(tiny.loss(layout.precision.dtype))
        step = make_step(
            loss,
            optimizer,
            layout,
            seed=0,
            gradient=clipped,
            accept=scaling.accept,
        )
        _, (_, scalars) = jax.jit(step)(tiny.start(ADAM, layout), tiny.data(0))
        norms.append(float(scalars["grad_norm"]))
    assert 0 < norms[0] < 0.1
    assert norms[1] == pytest.approx(norms[0], rel=0.01)


@pytest.mark.slow
def test_a_run_of_a_transformer_in_float16(tmp_path):
    """On four devices, in microbatches; logged, evaluated, with and without a scale."""
    layout = {
        "precision": Float16(LossScale(2.0**24)),
        "microbatches": 2,
        "fsdp": 2,
    }
    config = toy.change(toy.CONFIG, layout=layout, train={"steps": 16})
    program, batches = toy.program(config, devices=4), toy.batches(config)
    state, _ = loop.fit(program, batches, None, tmp_path, progress=False)
    rows = writers.read(tmp_path)
    assert 0 < rows[-1]["train/skipped"] < 12
    losses = [row["train/loss"] for row in rows]
    assert losses[-1] < losses[int(rows[-1]["train/skipped"])] - 0.3
    with use(program.mesh):
        batch = program.place(batches.batch(0))
        alone = program.evaluate(state.params, {}, {}, batch)
        whole = program.evaluate(state.params, {}, jax.device_get(state.extra), batch)
    assert float(alone["loss"][0]) == float(whole["loss"][0])
