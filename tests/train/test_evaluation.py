"""Metrics are exact means over examples, however the last batch is filled up."""

import dataclasses

import jax
import numpy as np
import pytest

from llmjax.train.evaluation import classification_report, evaluate, means, predictions
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
    loss = jax.jit(program.task.loss(program.model))
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
    predicted, labels = predictions(program, params, texts)
    assert len(predicted) == 11
    assert np.mean(predicted == labels) == pytest.approx(np.mean(right))


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
    report = classification_report(predicted, right)
    assert report["accuracy"] == metrics.accuracy_score(right, predicted)
    wanted = metrics.f1_score(right, predicted, average="macro")
    assert report["macro_f1"] == pytest.approx(wanted)
    assert report["confusion"] == metrics.confusion_matrix(right, predicted).tolist()
