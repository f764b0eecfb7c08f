"""Parts by weight, one schema, and at evaluation each part's own loss."""

import dataclasses
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    UL2,
    CausalLM,
    DataConfig,
    Denoising,
    FillInTheMiddle,
    LayoutConfig,
    LossConfig,
    MultiTask,
    PrefixLM,
    RunConfig,
    SpanCorruption,
    TaskPart,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives import multi_task
from llmjax.tasks.objectives.causal_lm import CausalLMTask
from llmjax.tasks.objectives.span_corruption import SENTINELS
from llmjax.tasks.task import loss_of

VOCABULARY = PlainVocabulary(38)
PARTS = (TaskPart(CausalLM(), 1.0), TaskPart(SpanCorruption(), 3.0))


def task(tiny, parts=PARTS, form="decoder", **loss):
    model = dataclasses.replace(tiny, architecture=form, vocab_size=160)
    data = DataConfig(packing="chunk", seq_len=48, encoder_seq_len=40)
    run = RunConfig(model, MultiTask(parts), data, loss=LossConfig(**loss))
    return multi_task.MultiTask(run, VOCABULARY)


def text(n=30, seed=0):
    return {"tokens": np.random.default_rng(seed).integers(3, 38, n).astype(np.int32)}


def test_parts_come_by_weight_from_the_examples_rng(tiny):
    parts = (*PARTS, TaskPart(PrefixLM(), 0.0), TaskPart(UL2(), 2.0))
    made, draws, found = task(tiny, parts), 1500, Counter()
    for seed in range(draws):
        features = made.features(text(), np.random.default_rng(seed))
        found[int(features["task"])] += 1
    assert set(found) == {0, 1, 3}
    for part, weight in {0: 1, 1: 3, 3: 2}.items():
        p = weight / 6
        error = math.sqrt(p * (1 - p) / draws)
        assert abs(found[part] / draws - p) < 4 * error
    one, same = (made.features(text(), np.random.default_rng(9)) for _ in range(2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])


def drawn(made, part):
    """The features of a text that went to `part`, and what that task gives."""
    for seed in range(100):
        features = made.features(text(), np.random.default_rng(seed))
        if features["task"] == part:
            rng = np.random.default_rng(seed)
            rng.random()
            return features, made.parts[part].features(text(), rng)
    raise AssertionError(f"part {part} never came")


def test_one_schema_for_all(tiny):
    made = task(tiny)
    (causal, as_causal), (spans, as_spans) = drawn(made, 0), drawn(made, 1)
    names = {"tokens", "targets", "prefix", "weights", "task"}
    assert set(causal) == set(spans) == names
    for name in names:
        assert causal[name].dtype == spans[name].dtype
    for name, value in as_spans.items():
        np.testing.assert_array_equal(spans[name], value)
    for name in ("tokens", "targets"):
        np.testing.assert_array_equal(causal[name], as_causal[name])
    assert causal["weights"].all() and not causal["prefix"].any()
    assert causal["task"].shape == () and causal["task"].dtype == np.int32
    # bytes are counted where every part counts them, and nothing else is made up
    bytes_known = task(tiny, (TaskPart(CausalLM()), TaskPart(FillInTheMiddle())))
    plain = bytes_known.features(text(), np.random.default_rng(0))
    assert set(plain) == {"tokens", "targets", "num_bytes", "task"}
    two = task(tiny, (TaskPart(UL2()), TaskPart(Denoising())), "encoder_decoder")
    streams = {"encoder_tokens", "tokens", "targets", "task"}
    assert set(two.features(text(), np.random.default_rng(0))) == streams


def test_texts_fit_every_part_and_specials_are_all_of_theirs(tiny):
    made = task(tiny, (*PARTS, TaskPart(Denoising()), TaskPart(UL2())))
    lengths = [part.text_length for part in made.parts]
    assert made.text_length == min(lengths) < max(lengths)
    assert made.length(made.text_length) <= 48
    assert set(made.specials) == {"<mask>", "[R]", "[S]", "[X]", *SENTINELS}
    assert len(made.specials) == len(set(made.specials))


@pytest.fixture
def trained(tiny, random_params):
    """A task of three parts, its model, weights, a batch and the part of each row."""
    parts = (*PARTS, TaskPart(CausalLM(), 1.0))
    made = task(tiny, parts, z_loss=0.1)
    batch: dict = {"segment_ids": np.zeros((6, 48), np.int32)}
    for row in range(6):
        features, _ = drawn(made, (0, 1, 1, 2, 0, 1)[row])
        width = len(features["tokens"])
        batch["segment_ids"][row, :width] = row < 5  # the last only fills up
        for name, value in features.items():
            shape = (6, 48) if value.ndim else 6
            batch.setdefault(name, np.zeros(shape, value.dtype))
            batch[name][(row, slice(width)) if value.ndim else row] = value
    batch = jax.tree.map(jnp.asarray, batch)
    model = made.model(made.run.model, LayoutConfig(loss_block=16))
    return made, model, random_params(model, batch), batch


def test_each_parts_loss_is_that_of_its_rows_alone(trained, quick_compile):
    made, model, params, batch = trained
    names = ("causal_lm_0", "span_corruption", "causal_lm_2")
    assert made.names == names
    _, count, metrics, extra = jax.jit(loss_of(made, model))(params, {}, 7, batch, None)
    assert extra == 7
    assert set(metrics) == {"loss", "accuracy", *(f"loss/{name}" for name in names)}
    alone = jax.jit(loss_of(CausalLMTask(made.run, VOCABULARY), model))
    rows = np.asarray(batch["task"])
    for part, name in enumerate(names):
        only = {
            **batch,
            "segment_ids": batch["segment_ids"] * (batch["task"] == part)[:, None],
        }
        _, weighed, wanted, _ = alone(params, {}, {}, only, None)
        assert 0 < float(weighed) < float(count)
        np.testing.assert_allclose(metrics[f"loss/{name}"], wanted["loss"], rtol=1e-5)
    together = alone(params, {}, {}, batch, None)[2]
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(metrics[name], together[name], rtol=1e-5)
    sums = np.sum([metrics[f"loss/{name}"] for name in names], axis=0)
    np.testing.assert_allclose(sums, metrics["loss"], rtol=1e-5)
    assert rows.tolist() == [0, 1, 1, 2, 0, 1]


def test_what_is_trained_is_one_loss_over_all_parts(trained, quick_compile):
    made, model, params, batch = trained
    key = jax.random.key(0)
    shared = loss_of(CausalLMTask(made.run, VOCABULARY), model)
    one, other = (
        jax.jit(loss)(params, {}, {}, batch, key)
        for loss in (loss_of(made, model), shared)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert float(one[0]) > float(one[2]["loss"][0])  # the z-loss is in it


@pytest.mark.parametrize(
    ("part", "form", "message"),
    [
        (
            CausalLM(),
            "encoder_decoder",
            r"task.parts\[1\] \('causal_lm'\) needs model.architecture='decoder', not "
            "'encoder_decoder'",
        ),
        (SpanCorruption(noise_density=0.0), "decoder", "nothing to predict"),
    ],
    ids=["architecture", "part"],
)
def test_a_part_that_does_not_fit_is_named(part, form, message, tiny):
    good = TaskPart(SpanCorruption())
    task(tiny, (good,), form).check()
    with pytest.raises(ValueError, match=message):
        task(tiny, (good, TaskPart(part)), form).check()
