"""Losses and estimators from outside the package: R-Drop, distillation, clipping."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.models.forward import forward, variables
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.axes import param_axes
from llmjax.parallel.mesh import use
from llmjax.tasks.objectives.language import token_weights
from llmjax.tasks.task import loss_of
from llmjax.train import loop, run
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.gradient import value_and_grad
from llmjax.train.metrics.writers import read
from llmjax.train.state import WithAxes
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")

# --- R-Drop (Liang et al. 2021, arXiv:2106.14448) -------------------------------------


def symmetric_kl(p_logits, q_logits):
    p, q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    return 0.5 * jnp.sum((jnp.exp(p) - jnp.exp(q)) * (p - q), axis=-1)


def r_drop(task, model, weight=0.5):
    """The mean loss of two passes with different dropout, and their divergence."""
    outputs_of = task.outputs(model)

    def loss(params, frozen, extra, batch, rng):
        weights = variables(params, frozen)
        if rng is None:
            return *task.score(outputs_of(weights, batch, None), batch), extra
        keys = jax.random.split(rng)
        one, other = (outputs_of(weights, batch, key) for key in keys)
        total, count, metrics = task.score(one, batch, training=True)
        total += task.score(other, batch, training=True)[0]
        apart = jnp.sum(symmetric_kl(one.head, other.head))
        metrics = {**metrics, "divergence": (apart, count)}
        return total / 2 + weight * apart, count, metrics, extra

    return loss


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_r_drop_compares_two_passes(dropout):
    config = toy.change(toy.classifier(toy.CONFIG), model={"dropout": dropout})
    task = toy.task(config)
    program = toy.program(config)
    model, params = program.model, program.init().params
    batch = program.place(toy.batches(config).batch(0))
    rng = jax.random.key(0)
    with use(program.mesh):
        total, count, metrics, _ = r_drop(task, model)(params, {}, {}, batch, rng)
        plain = r_drop(task, model)(params, {}, {}, batch, None)[0]
    apart = metrics["divergence"][0]
    assert count == 8
    assert (apart > 1e-4) if dropout else (apart < 1e-6)
    if not dropout:
        np.testing.assert_allclose(total, plain, rtol=1e-5)


def test_a_run_with_r_drop_learns(tmp_path):
    config = toy.change(
        toy.classifier(toy.CONFIG), model={"dropout": 0.1}, train={"steps": 3}
    )
    batches, task = toy.batches(config), toy.task(config)
    trained = run.run(
        config, tmp_path, task=task, source=batches, loss=r_drop, progress=False
    )
    rows = read(tmp_path)
    assert all(row["train/divergence"] > 0 for row in rows if "train/loss" in row)
    assert trained.result["finished"]


# --- distillation (Hinton et al. 2015, arXiv:1503.02531) ------------------------------

MESH = {"data": 1, "fsdp": 4, "tensor": 2}
STUDENT = toy.change(toy.NOISY, layout=MESH)
TEACHER = LanguageModel(
    dataclasses.replace(toy.CONFIG.model, d_model=32, d_ff=64, num_heads=4)
)


def distilled(teacher, weight=0.5):
    def wrapper(task, model):
        outputs_of = task.outputs(model)

        def loss(params, frozen, extra, batch, rng):
            outputs = outputs_of(variables(params, frozen), batch, rng)
            total, count, metrics = task.score(outputs, batch, training=rng is not None)
            student_BTV = outputs.head.logits()
            (teacher_BTV, _), _ = forward(teacher, variables(frozen["teacher"]), batch)
            p, q = jax.nn.log_softmax(teacher_BTV), jax.nn.log_softmax(student_BTV)
            kl_BT = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
            kl = jnp.sum(kl_BT * token_weights(batch))
            metrics = {**metrics, "divergence": (kl, count)}
            return (1 - weight) * total + weight * kl, count, metrics, extra

        return loss

    return wrapper


@pytest.fixture(scope="module")
def taught():
    """() -> a student's program, as a new process would build it."""
    batch = {"tokens": np.zeros((1, 4), np.int32)}
    axes = param_axes(TEACHER, batch)[1]
    params = nn.unbox(jax.jit(TEACHER.init)(jax.random.key(7), batch))["params"]
    surer = jax.tree.map(lambda x: 4 * x, jax.device_get(params))
    teacher = {"teacher": WithAxes(surer, axes)}

    def build(**fields):
        config = toy.change(STUDENT, optimizer=fields)
        return toy.program(config, 8, loss=distilled(TEACHER, 0.9), frozen=teacher)

    return build


def test_a_teacher_of_another_shape_lies_over_the_mesh(taught, tmp_path):
    program, train = taught(), toy.batches(STUDENT)
    state = program.init()
    up = state.frozen["teacher"]["transformer"]["stack"]["group_0"]["layer_0"]["mlp"]
    kernel = up["up"]["kernel"]
    assert kernel.shape == (2, 32, 64)
    assert {s.data.shape for s in kernel.addressable_shards} == {(2, 8, 32)}
    with use(program.mesh):
        text = program.step.lower(program.restorable(), program.batch).as_text()
    assert "32x64xf32" in text  # an argument; a closure's would be dense<...> of it
    assert not any('dense<"0x' in line for line in text.splitlines())
    loop.fit(program, train, None, tmp_path, progress=False)
    rows = read(tmp_path)
    assert rows[-1]["train/divergence"] < rows[0]["train/divergence"]


def test_killed_and_resumed_with_a_teacher_and_frozen_weights(taught, tmp_path):
    def kill():
        raise KeyboardInterrupt

    train, fields = toy.batches(STUDENT), {"freeze": ("transformer/embedder/*",)}
    program = taught(**fields)
    whole, _ = loop.fit(program, train, None, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        ended = toy.Interrupted(train, 6, kill)
        loop.fit(program, ended, None, tmp_path / "parts", progress=False)
    parts, _ = loop.fit(
        taught(**fields), train, None, tmp_path / "parts", progress=False
    )
    toy.assert_same_bits(jax.device_get(parts), jax.device_get(whole))


# --- per-example clipped gradients (Abadi et al. 2016, arXiv:1607.00133) --------------


def clipped(norm):
    def estimator(loss):
        def one(params, frozen, extra, batch, key, index):
            row = jax.tree.map(lambda x: x[index][None], batch)
            rng = jax.random.fold_in(key, index)
            grads, _, metrics, _ = value_and_grad(loss)(params, frozen, extra, row, rng)
            scale = jnp.minimum(1, norm / optax.tree.norm(grads))
            return jax.tree.map(lambda g: g * scale, grads), metrics

        def gradient(params, frozen, extra, batch, key):
            rows = jnp.arange(len(jax.tree.leaves(batch)[0]))
            each = jax.lax.map(
                lambda i: one(params, frozen, extra, batch, key, i), rows
            )
            grads, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), each)
            return grads, jnp.float32(len(rows)), metrics, extra

        return gradient

    return estimator


@pytest.mark.parametrize("microbatches", [1, 2])
def test_clipped_gradients_of_examples_are_those_of_a_loop(microbatches):
    config = toy.change(toy.CONFIG, layout={"microbatches": microbatches})
    sgd = optax.with_extra_args_support(optax.sgd(1.0))
    program = toy.program(config, gradient=clipped(2.0), optimizer=sgd)
    state, rows = program.init(), toy.batches(config).batch(0)
    params = jax.device_get(state.params)
    loss = loss_of(program.task, program.model)
    key = jax.random.key(0)
    total = jax.tree.map(np.zeros_like, params)
    norms = []
    grad = jax.jit(jax.grad(lambda p, row: loss(p, {}, {}, row, key)[0]))
    with use(program.mesh):
        state, _ = program.step(state, program.place(rows))
        for i in range(8):
            row = {k: v[i : i + 1] for k, v in rows.items()}
            one = jax.device_get(grad(params, row))
            norms.append(float(optax.tree.norm(one)))
            scale = min(1, 2.0 / norms[-1])
            total = jax.tree.map(lambda t, g, s=scale: t + s * g / 8, total, one)
    assert max(norms) > 2
    jax.tree.map(
        lambda p, new, g: np.testing.assert_allclose(p - new, g, rtol=1e-3, atol=2e-6),
        params,
        jax.device_get(state.params),
        total,
    )


# --- the best checkpoint by accuracy --------------------------------------------------


def test_the_checkpoint_of_the_largest_accuracy_is_kept(tmp_path):
    fields = {"best_metric": "accuracy", "best_mode": "max"}
    every = {"eval_every": 2, "checkpoint_every": 2, "keep_best": 1}
    config = toy.change(toy.classifier(toy.CONFIG), train={**fields, **every})
    held_out = toy.batches(config, documents=9, seed=1)
    run.run(
        config,
        tmp_path,
        task=toy.task(config),
        source=toy.batches(config),
        evaluation=held_out,
        progress=False,
    )
    scores = {
        row["step"]: row["eval/accuracy"]
        for row in read(tmp_path)
        if row["step"] and "eval/accuracy" in row
    }
    best = Checkpoints(tmp_path).best_step
    assert scores[best] == max(scores.values()) > min(scores.values())
