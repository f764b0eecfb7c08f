"""Losses that compare rows: microbatches, devices and memory; the guide's copy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    SGD,
    CoSENT,
    CosineRegression,
    DataConfig,
    GuidedNegatives,
    LayoutConfig,
    Ranking,
    RunConfig,
    SentenceEmbedding,
    Truncation,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import loss_of
from llmjax.train import setup
from tests.tasks.embeddings import of_config
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
LOSSES = {
    "ranking": {"loss": Ranking(directions=("query_to_doc", "doc_to_query"))},
    "guided": {"loss": Ranking(negatives=GuidedNegatives(margin=0.05))},
    "cosent": {"loss": CoSENT(), "truncations": (Truncation(16), Truncation(4))},
    "cosine": {"loss": CosineRegression()},
}


def stepped(run, devices=1, steps=1):
    """The weights before and after some steps of gradient descent, and the metrics."""
    task = make_task(run, PlainVocabulary(38))
    rows = task.example_batch(run.data.batch_size)
    rows["valid"][-1] = 0
    mesh = mesh_lib.make_mesh(run.layout, jax.devices()[:devices])
    program = setup.build(run, task, rows, mesh=mesh)
    state = program.init()
    before = jax.device_get(state.params)
    with mesh_lib.use(mesh):
        for _ in range(steps):
            state, (metrics, scalars) = program.step(state, program.place(rows))
    after, out = jax.device_get((state.params, (metrics, scalars)))
    return before, after, out, jax.device_get(state.frozen)


def sgd(run):
    optimizer = dataclasses.replace(
        run.optimizer, algorithm=SGD(momentum=0.0), learning_rate=1.0, weight_decay=0.0
    )
    optimizer = dataclasses.replace(optimizer, schedule=toy.CONFIG.optimizer.schedule)
    return dataclasses.replace(run, optimizer=optimizer)


@pytest.mark.parametrize("name", LOSSES)
def test_microbatches_and_devices_are_one_batch(name, tiny):
    """Loss, count and gradient, with a row that only fills up."""
    config = sgd(of_config(tiny, **LOSSES[name]))
    one = stepped(config, steps=2)
    norms = one[2][1]
    assert norms["grad_norm"] > 1e-3
    four = dataclasses.replace(config, layout=LayoutConfig(microbatches=4))
    two = dataclasses.replace(
        config, layout=LayoutConfig(microbatches=2, data=2, fsdp=2)
    )
    whole = dataclasses.replace(config, layout=LayoutConfig(data=8))
    others = [(two, 4), *([(four, 1), (whole, 8)] if name == "ranking" else [])]
    for other, devices in others:
        found = stepped(other, devices, steps=2)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            (one[1], one[2][0], one[2][1]["grad_norm"]),
            (found[1], found[2][0], found[2][1]["grad_norm"]),
        )


def test_the_guide_is_the_model_as_it_began(tiny):
    run = sgd(of_config(tiny, **LOSSES["guided"]))
    before, after, _, frozen = stepped(run, steps=2)
    toy.assert_same_bits(frozen["reference"], before)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    assert max(jax.tree.leaves(moved)) > 1e-3


def simcse(tiny, microbatches, dropout, views):
    model = dataclasses.replace(
        tiny, architecture="encoder", num_layers=1, dropout=dropout
    )
    data = DataConfig(packing="pad", seq_len=12, batch_size=8)
    layout = LayoutConfig(microbatches=microbatches)
    return sgd(RunConfig(model, SentenceEmbedding(views), data, layout))


def test_simcse_in_microbatches_is_one_batch(tiny):
    one, four = (stepped(simcse(tiny, k, 0.0, "halves")) for k in (1, 4))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        (one[1], one[2][0]),
        (four[1], four[2][0]),
    )


def test_dropout_is_the_same_in_both_passes(tiny):
    """The gradient is that of microbatches' outputs kept, with their own keys."""
    run = simcse(tiny, 4, 0.3, "dropout")
    before, _, (metrics, scalars), _ = stepped(run)
    task = make_task(run, PlainVocabulary(38))
    rows = task.example_batch(8)
    rows["valid"][-1] = 0
    rows = jax.tree.map(jnp.asarray, rows)
    loss = loss_of(task, task.model(run.model, run.layout))
    key = jax.random.fold_in(jax.random.key(run.train.seed), 0)

    @jax.value_and_grad
    def kept(params):
        parts = [
            loss.outputs(
                params,
                {},
                jax.tree.map(lambda x, i=i: x[i::4], rows),
                jax.random.fold_in(key, i),
            )
            for i in range(4)
        ]
        tree = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(8, -1), *parts)
        total, count, _ = loss.score(tree, rows, training=True)
        return total / count

    value, grads = jax.jit(kept)(before)
    np.testing.assert_allclose(metrics["loss"][0] / 7, value, rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(scalars["grad_norm"], norm, rtol=1e-4)


def test_memory_falls_with_the_microbatches(tiny):
    """Temporaries of the compiled step, as its activations come one microbatch."""
    model = dataclasses.replace(tiny, d_ff=256)
    sizes = []
    for k in (1, 8):
        run = of_config(model, microbatches=k, batch_size=128)
        task = make_task(run, PlainVocabulary(38))
        rows = task.example_batch(128)
        mesh = mesh_lib.make_mesh(run.layout, jax.devices()[:1])
        program = setup.build(run, task, rows, mesh=mesh)
        with mesh_lib.use(mesh):
            compiled = program.step.lower(program.restorable(), program.batch).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 0.4 * sizes[0]


def test_a_wrapped_loss_cannot_be_cached(tiny):
    run = of_config(tiny, microbatches=2, batch_size=16)
    task = make_task(run, PlainVocabulary(38))
    wrapped = lambda task, model: lambda *a: loss_of(task, model)(*a)  # noqa: E731
    with pytest.raises(ValueError, match=r"layout.microbatches=2 computes them apart"):
        setup.build(run, task, task.example_batch(16), loss=wrapped)
