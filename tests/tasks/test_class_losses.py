"""Losses over classes against torch's in float64, and the ordinal head's likelihood."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from llmjax.models.heads.classifier import (
    even_thresholds,
    ordinal_log_probabilities,
)
from llmjax.tasks.labelled.problems import losses
from tests.parity.goldens import FOLDER

GOLDEN = json.loads((FOLDER / "class_losses.json").read_text())


@pytest.mark.parametrize("case", sorted(GOLDEN["cases"]))
def test_value_and_gradient_are_torch_s(case):
    kind, _, name = case.partition("/")
    options = GOLDEN["options"][name]

    def loss(logits):
        if kind == "single":
            label = jnp.array(GOLDEN["label"])
            total, weight = losses.single_label(logits, label, **options)
            return total.sum() / weight.sum()
        target = jnp.array(GOLDEN["target"], jnp.float32)
        return losses.multi_label(logits, target, **options).mean()

    value, slope = jax.value_and_grad(loss)(jnp.array(GOLDEN["logits"], jnp.float32))
    expected, expected_slope = GOLDEN["cases"][case]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_certain_text_has_a_finite_gradient(gamma):
    """1 - p is 0 in float32, and of its power's slope nothing may be left."""
    logits = jnp.array([[200.0, 0.0], [0.0, 200.0]])

    def single(x):
        return losses.single_label(x, jnp.array([0, 0]), (), gamma)[0].sum()

    def several(x):
        return losses.multi_label(x, jnp.array([[1.0, 0.0], [1.0, 0.0]])).sum()

    for loss in (single, several):
        value, slope = jax.value_and_grad(loss)(logits)
        assert np.isfinite(value) and np.isfinite(slope).all()
    np.testing.assert_allclose(single(logits), 200, rtol=1e-5)


def test_log_probabilities_of_ordered_classes_are_differences_of_sigmoids():
    """In float64, from the definition: P(k) = s(t_k - g) - s(t_(k-1) - g)."""
    own = np.array([-1.5, 0.3, -2.0])
    thresholds = np.cumsum([own[0], *np.logaddexp(0, own[1:])])
    assert (np.diff(thresholds) > 0).all()
    for score in (-3.0, 0.0, 2.5):
        ends = special.expit(thresholds - score)
        expected = np.log(np.diff([0, *ends, 1]))
        found = ordinal_log_probabilities(jnp.array([score]), jnp.array(own))
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    far = jnp.array([[60.0], [-60.0]])
    slope = jax.grad(lambda x: ordinal_log_probabilities(x, jnp.array(own)).sum())(far)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_ordered_classes_begin_equally_likely(classes):
    own = even_thresholds(jax.random.key(0), (classes - 1,))
    log_p = ordinal_log_probabilities(jnp.zeros(1), own)
    np.testing.assert_allclose(np.exp(log_p), 1 / classes, rtol=1e-4)
