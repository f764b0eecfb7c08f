"""Metrics are exact means over examples, however the last batch is filled up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.tasks.labelled.confusion import (
    classification_report,
    confusion,
)
from llmjax.tasks.task import loss_of
from llmjax.train.metrics.evaluation import evaluate, means, predictions
from llmjax.train.metrics.finite import NotFiniteError
from tests.train import toy


@pytest.fixture(scope="module")
def classifying():
    program = toy.program(toy.classifier(toy.CONFIG))
    params = jax.tree.map(lambda x: x * 3, program.init().params)
    return program, params


def test_every_example_counts_once(classifying):
    """Eleven texts in batches of eight, against each text's own loss."""
    program, params = classifying
    texts = toy.batches(program.config, documents=11, seed=5)
    loss = jax.jit(loss_of(program.task, program.model))
    singles, right = [], []
    for rows in texts.evaluation():
        for i in np.flatnonzero(rows["valid"]):
            row = {k: v[i : i + 1] for k, v in rows.items()}
            metrics = loss(params, {}, {}, row, None)[2]
            singles.append(float(metrics["loss"][0]))
            right.append(float(metrics["accuracy"][0]))
    assert len(singles) == 11
    found = evaluate(program, params, texts)
    assert found["loss"] == pytest.approx(np.mean(singles), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    parts = list(predictions(program, params, texts))
    assert [part.ids.tolist() for part in parts] == [[*range(8)], [8, 9, 10]]
    hits = [part.values["label"] == part.labels["label"] for part in parts]
    assert np.concatenate(hits).tolist() == [bool(r) for r in right]
    report = program.task.report(iter(parts))
    assert report["accuracy"] == pytest.approx(np.mean(right))
    assert np.shape(report["confusion"]) == (toy.LABELS, toy.LABELS)
    shares = np.concatenate([part.values["probabilities"] for part in parts])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    chosen = np.concatenate([part.values["label"] for part in parts])
    np.testing.assert_array_equal(shares.argmax(1), chosen)


def test_a_metric_that_is_not_finite_is_an_error_with_its_reason(classifying):
    program, params = classifying
    texts = toy.batches(program.config, documents=3, seed=5)
    flat = flatten_dict(params, sep="/")
    name = next(n for n in flat if n.endswith("mlp/up/kernel"))
    spoiled = flat | {name: flat[name].at[0, 1, 2].set(jnp.nan)}
    with pytest.raises(NotFiniteError) as error:
        evaluate(program, unflatten_dict(spoiled, sep="/"), texts)
    assert "evaluation: loss is nan; 1 values of the weight" in str(error.value)
    assert name in str(error.value)
    norm = next(n for n in flat if n.endswith("final_norm/scale"))
    large = flat | {norm: flat[norm] * 1e38}
    with pytest.raises(NotFiniteError, match="overflow in float32$"):
        evaluate(program, unflatten_dict(large, sep="/"), texts)


class PackedTexts:
    """One batch of eight rows with two places each, of which some hold a text."""

    def __init__(self, rows):
        half = np.int32(np.arange(16) >= 8)[None].repeat(8, 0)
        self.valid = np.int32([[1, 1], [1, 0]] * 3 + [[0, 0]] * 2)
        self.rows = rows | {
            "segment_ids": (half + 1) * np.take_along_axis(self.valid, half, 1),
            "label": np.int32(np.arange(16).reshape(8, 2) % toy.LABELS),
            "valid": self.valid,
        }

    def evaluation(self, *process):
        yield self.rows


def test_each_text_of_a_packed_row_has_a_prediction(classifying):
    program, params = classifying
    texts = PackedTexts(toy.batches(program.config).batch(0))
    (part,) = predictions(program, params, toy.Interrupted(texts, None, None))
    places = np.flatnonzero(texts.valid)
    assert part.ids.tolist() == places.tolist() and len(places) == 9
    assert part.labels["label"].tolist() == (places % toy.LABELS).tolist()
    metrics = program.evaluate(params, {}, {}, program.place(texts.rows))
    hits = part.values["label"] == part.labels["label"]
    assert tuple(map(float, metrics["accuracy"])) == (hits.sum(), 9)


def test_so_many_batches_as_the_config_says(classifying):
    program, params = classifying
    texts = toy.batches(program.config, documents=20, seed=5)
    calls = []

    def counted(*args):
        calls.append(1)
        return program.evaluate(*args)

    for limit, wanted in ((None, 3), (1, 1), (9, 3)):
        config = toy.change(program.config, train={"eval_batches": limit})
        limited = dataclasses.replace(program, config=config, evaluate=counted)
        calls.clear()
        evaluate(limited, params, texts)
        assert len(calls) == wanted


def test_means_divide_sums_by_counts():
    rows = [{"loss": (6.0, 2.0)}, {"loss": (1.0, 5.0), "accuracy": (0.0, 0.0)}]
    assert means(rows) == {"loss": 1.0, "accuracy": 0.0}


def test_the_report_of_a_classification_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    right, predicted = rng.integers(0, 5, (2, 60))
    right[right == 3] = 2  # a class that is only predicted
    report = classification_report(confusion(predicted, right, 5))
    assert report["accuracy"] == metrics.accuracy_score(right, predicted)
    wanted = metrics.f1_score(right, predicted, average="macro")
    assert report["macro_f1"] == pytest.approx(wanted)
    assert report["confusion"] == metrics.confusion_matrix(right, predicted).tolist()
