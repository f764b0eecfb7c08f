"""Metrics of classes and numbers equal scikit-learn's and scipy's, however divided."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from llmjax.config import (
    LossConfig,
    MultiLabel,
    Ordinal,
    Regression,
    SequenceClassification,
    SingleLabel,
)
from llmjax.tasks.labelled import confusion
from llmjax.tasks.labelled.problems.multi_label import MultiLabelProblem
from llmjax.tasks.labelled.problems.ranking import ranking_precision
from llmjax.tasks.labelled.problems.regression import RegressionProblem
from llmjax.tasks.labelled.problems.single_label import (
    OrdinalProblem,
    SingleLabelProblem,
)
from llmjax.tasks.task import Predictions

N, C = 137, 5


def divided(values, labels, parts):
    """Predictions of all texts in some parts, as several batches or processes."""
    for places in np.array_split(np.arange(len(labels)), parts):
        if isinstance(values, dict):
            own = {k: v[places] for k, v in values.items()}
        else:
            own = values[places]
        yield Predictions(places, own, {"label": labels[places]})


def report_of(kind, problem, values, labels, parts, count=C):
    config = SequenceClassification(count, problem=problem)
    return kind(config, LossConfig()).report(divided(values, labels, parts))


@pytest.fixture
def classes():
    rng = np.random.default_rng(3)
    p_NC = rng.dirichlet(np.ones(C), N).astype(np.float32)
    right = np.where(rng.random(N) < 0.4, p_NC.argmax(1), rng.integers(0, C - 1, N))
    return right, {"label": p_NC.argmax(1), "probabilities": p_NC}


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_one_class_of_several(parts, classes):
    right, values = classes
    found = report_of(SingleLabelProblem, SingleLabel(), values, right, parts)
    chosen = values["label"]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(right, chosen))
    macro = metrics.f1_score(right, chosen, average="macro")
    assert found["macro_f1"] == pytest.approx(macro)
    matthews = metrics.matthews_corrcoef(right, chosen)
    assert found["matthews"] == pytest.approx(matthews)
    top = values["probabilities"].max(1).astype(float)
    places = np.digitize(top, np.linspace(0, 1, 16), right=True)
    expected = sum(
        abs((chosen == right)[places == b].mean() - top[places == b].mean())
        * (places == b).mean()
        for b in np.unique(places)
    )
    assert found["calibration_error"] == pytest.approx(expected)


def test_intervals_are_those_of_a_bootstrap_over_texts(classes):
    """scipy's, by texts: its ends and ours differ by what two thousand draws leave."""
    right, values = classes
    chosen = values["label"]
    found = confusion.intervals(confusion.confusion(chosen, right, C))
    assert found == confusion.intervals(confusion.confusion(chosen, right, C))

    def macro(a, b):
        return metrics.f1_score(a, b, average="macro")

    for name, metric in (
        ("accuracy", lambda a, b: np.mean(a == b)),
        ("macro_f1", macro),
    ):
        theirs = stats.bootstrap(
            (right, chosen),
            metric,
            paired=True,
            vectorized=False,
            n_resamples=1000,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        np.testing.assert_allclose(found[f"{name}_interval"], theirs, atol=0.02)
        assert found[f"{name}_interval"][0] < metric(right, chosen) < theirs[1]


@pytest.mark.parametrize("parts", [1, 3])
def test_classes_in_an_order(parts, classes):
    right, values = classes
    found = report_of(OrdinalProblem, Ordinal(), values, right, parts)
    kappa = metrics.cohen_kappa_score(right, values["label"], weights="quadratic")
    assert found["quadratic_kappa"] == pytest.approx(kappa)
    off = metrics.mean_absolute_error(right, values["label"])
    assert found["mae"] == pytest.approx(off)


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_any_number_of_classes(parts):
    rng = np.random.default_rng(5)
    right = rng.random((N, C)) < np.array([0.5, 0.3, 0.1, 0.02, 0.0])
    scores = (right * 0.3 + rng.random((N, C)) * 0.7).round(1).astype(np.float32)
    labels = right.astype(np.float32)
    found = report_of(MultiLabelProblem, MultiLabel(), scores, labels, parts)
    chosen = scores >= 0.5
    for average in ("micro", "macro"):
        theirs = metrics.f1_score(right, chosen, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(theirs)
    assert found["subset_accuracy"] == pytest.approx(
        metrics.accuracy_score(right, chosen)
    )
    lrap = metrics.label_ranking_average_precision_score(right, scores)
    assert found["ranking_precision"] == pytest.approx(lrap)
    table = metrics.precision_recall_fscore_support(right, chosen, zero_division=0)
    own = [[*row.values()] for row in found["classes"].values()]
    np.testing.assert_allclose(np.array(own).T, np.array(table))


def test_ranking_precision_of_ties_and_of_all_or_none():
    right = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    scores = np.array([[0.5, 0.5, 0.1], [0.1, 0.2, 0.3], [0.3, 0.3, 0.3]])
    np.testing.assert_allclose(
        ranking_precision(right, scores), [(1 / 2 + 2 / 3) / 2, 1, 1]
    )


@pytest.mark.parametrize(("parts", "count"), [(1, 1), (2, 1), (8, 3)])
def test_numbers(parts, count):
    rng = np.random.default_rng(7)
    right = rng.normal(size=(N, count)).round(1).astype(np.float32)  # with ties
    own = (right * 0.5 + rng.normal(size=right.shape)).astype(np.float32)
    found = report_of(RegressionProblem, Regression(), own, right, parts, count)
    rows = [found] if count == 1 else found["numbers"].values()
    for c, row in enumerate(rows):
        a, b = own[:, c], right[:, c]
        assert row["pearson"] == pytest.approx(stats.pearsonr(a, b)[0])
        assert row["spearman"] == pytest.approx(stats.spearmanr(a, b)[0])
        assert row["mse"] == pytest.approx(metrics.mean_squared_error(b, a))
        assert row["mae"] == pytest.approx(metrics.mean_absolute_error(b, a))
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(right, own))


def test_what_cannot_be_seen_is_zero_and_no_error():
    """One class alone, constant numbers: no metric is infinite or not a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = np.diag([4, 0, 0])
        assert confusion.matthews(alone) == 0
        assert confusion.ordinal_report(alone) == {"quadratic_kappa": 0.0, "mae": 0.0}
        assert confusion.intervals(alone)["accuracy_interval"] == [1, 1]
        same, right = np.ones((3, 1)), np.array([[1.0], [2.0], [3.0]])
        found = report_of(RegressionProblem, Regression(), same, right, 1, 1)
        assert found["pearson"] == found["spearman"] == 0
        nothing = np.zeros((3, 2))
        found = report_of(MultiLabelProblem, MultiLabel(), nothing, nothing, 1, 2)
        assert found["macro_f1"] == 0 and found["subset_accuracy"] == 1
