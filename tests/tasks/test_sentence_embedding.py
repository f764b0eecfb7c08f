"""SimCSE: its loss, negatives of the global batch, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import DataConfig, LayoutConfig, RunConfig, SentenceEmbedding
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel.axes import batch_sharding
from llmjax.tasks.objectives.sentence_embedding import SentenceEmbeddingTask
from llmjax.tasks.task import loss_of

T, B = 12, 8
pytestmark = pytest.mark.usefixtures("quick_compile")


def bound(tiny, dropout=0.1, layout=None, pooler=False, **fields):
    model = dataclasses.replace(
        tiny, architecture="encoder", num_layers=1, dropout=dropout, pooler=pooler
    )
    run = RunConfig(
        model,
        SentenceEmbedding(**fields),
        DataConfig(packing="pad", seq_len=T, batch_size=B),
        layout or LayoutConfig(),
    )
    return SentenceEmbeddingTask(run, PlainVocabulary(38))


def batch_of(task, rows=B):
    rng = np.random.default_rng(0)
    batch = {}
    for name in ("", "other_"):
        for kind in ("tokens", "segment_ids", "positions"):
            batch[name + kind] = np.zeros((rows, T), np.int32)
    for row in range(rows):
        text = rng.integers(3, 37, rng.integers(6, 21), dtype=np.int32)
        made = task.features({"tokens": text}, rng)
        for key, value in made.items():
            name, n = key.removesuffix("tokens"), len(value)
            assert n <= task.length(len(text)) <= T
            batch[key][row, :n] = value
            batch[f"{name}segment_ids"][row, :n] = 1
            batch[f"{name}positions"][row, :n] = np.arange(n)
    batch["valid"] = np.ones(rows, np.int32)
    return batch


def placed(batch):
    return jax.tree.map(jnp.asarray, batch)


def test_a_text_is_cut_in_halves_that_take_turns(tiny):
    task = bound(tiny)
    assert task.text_length == 20 and task.length(20) == task.length(19) == T
    seen = set()
    for seed in range(20):
        made = task.features(
            {"tokens": np.int32([7, 8, 9])}, np.random.default_rng(seed)
        )
        assert set(made) == {"tokens", "other_tokens"}
        seen.add((*made["tokens"].tolist(), 0, *made["other_tokens"].tolist()))
    assert seen == {(1, 7, 8, 2, 0, 1, 9, 2), (1, 9, 2, 0, 1, 7, 8, 2)}


def embedded(model, params, batch, prefix=""):
    """Mean of the hidden states of real tokens, by hand, of length 1."""
    stream = {
        k: jnp.asarray(batch[prefix + k])
        for k in ("tokens", "segment_ids", "positions")
    }
    x_BTD = model.apply({"params": params}, stream, method="hidden")
    rows = [
        np.asarray(x)[s > 0].mean(0)
        for x, s in zip(x_BTD, np.asarray(stream["segment_ids"]), strict=True)
        if s.any()
    ]
    return np.array([x / np.linalg.norm(x) for x in rows])


def test_the_loss_is_of_finding_the_other_half(tiny, random_params):
    task = bound(tiny, dropout=0.0, views="halves", temperature=0.2)
    batch = batch_of(task)
    batch["valid"][6:] = 0  # rows that only fill up
    for name in ("segment_ids", "other_segment_ids"):
        batch[name][6:] = 0
    model = task.model(task.run.model, LayoutConfig())
    params = random_params(model, batch)
    a, b = (embedded(model, params, batch, name) for name in ("", "other_"))
    logits = np.array([[u @ v / 0.2 for v in b] for u in a])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = -np.log(np.diag(p)).sum()
    run = jax.jit(loss_of(task, model))
    for key in (None, jax.random.key(0)):  # without dropout training is the same
        total, count, metrics, extra = run(params, {}, 7, batch, key)
        np.testing.assert_allclose(total, wanted, rtol=1e-5)
        assert (float(count), extra) == (6, 7)
        right = (logits.argmax(1) == np.arange(6)).sum()
        np.testing.assert_allclose(metrics["accuracy"], (right, 6))
        np.testing.assert_allclose(metrics["chance"], (1, 6))
        np.testing.assert_allclose(metrics["loss"], (wanted, 6), rtol=1e-5)
    found = jax.jit(task.predict(model))({"params": params}, batch)
    np.testing.assert_allclose(found[:6], a, rtol=1e-4, atol=1e-5)


def test_two_dropout_masks_make_two_views(tiny, random_params):
    task = bound(tiny, dropout=0.3)
    batch = placed(batch_of(task))
    model = task.model(task.run.model, LayoutConfig())
    params = random_params(model, batch)
    run = jax.jit(loss_of(task, model))
    key = jax.random.key(0)
    one = run(params, {}, {}, batch, key)
    # the other half is not read in training, in evaluation it is
    strange = {**batch, "other_tokens": (batch["other_tokens"] + 1) % 38}
    assert float(run(params, {}, {}, strange, key)[0]) == float(one[0])
    seen = [float(run(params, {}, {}, x, None)[0]) for x in (batch, strange)]
    assert abs(seen[0] - seen[1]) > 1e-3
    # the views are of two masks: of one they would be one, and each text certain
    embed = jax.jit(lambda key: task._embed(model, {"params": params}, batch, key))
    a, b = (np.asarray(embed(k)) for k in jax.random.split(key))
    assert np.abs(a - b).max() > 0.05
    logits = a @ b.T / 0.05
    wanted = (np.log(np.exp(logits - 20).sum(1)) + 20 - np.diag(logits)).sum()
    np.testing.assert_allclose(one[0], wanted, rtol=1e-4)


def test_first_is_pooled_in_training_alone(tiny, random_params):
    task = bound(tiny, pooler=True, pooling="first", dropout=0.0, views="halves")
    batch = placed(batch_of(task))
    model = task.model(task.run.model, LayoutConfig())
    params = random_params(model, batch)
    x_BTD = model.apply({"params": params}, batch, method="hidden")
    first = np.asarray(x_BTD[:, 0])
    found = task.predict(model)({"params": params}, batch)
    wanted = first / np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    run = jax.jit(loss_of(task, model))
    through, before = (
        run(params, {}, {}, batch, k)[0] for k in (jax.random.key(0), None)
    )
    assert abs(float(through) - float(before)) > 1e-3


def test_negatives_are_those_of_all_devices(tiny, random_params):
    """Loss and gradient of eight devices are those of one, dropout's masks too."""
    task = bound(tiny, dropout=0.2)
    batch, key = batch_of(task), jax.random.key(3)
    model = task.model(task.run.model, task.run.layout)
    params = random_params(model, placed(batch))
    loss, found = loss_of(task, model), []
    for devices in (1, 8):
        mesh = mesh_lib.make_mesh(task.run.layout, jax.devices()[:devices])
        with mesh_lib.use(mesh):
            rows = jax.device_put(batch, batch_sharding(mesh, batch))
            assert rows["tokens"].addressable_shards[0].data.shape == (B // devices, T)
            gradient = jax.value_and_grad(lambda p, r: loss(p, {}, {}, r, key)[0])
            found.append(jax.device_get(jax.jit(gradient)(params, rows)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found
    )
    assert found[0][0] > 1


def test_what_does_not_fit_is_named(tiny):
    with pytest.raises(ValueError, match=r"model.dropout=0.0 makes them one; set it"):
        bound(tiny, dropout=0.0).check()
    bound(tiny, dropout=0.0, views="halves").check()
