"""Rows are handed out by weight, evenly, each source's own in their order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import Explicit, Proportional, Temperature
from llmjax.data.batches.interleaving import PERIOD, Interleaving, shares

weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=6
).filter(sum)
quick = settings(deadline=None, max_examples=30)


@quick
@given(weights, st.integers(0, 10**7), st.integers(0, 300))
def test_whose_a_row_is_agrees_with_how_many_came_before(
    weights: list[float], first: int, count: int
) -> None:
    mixture = Interleaving(weights)
    owners = mixture.sources(first, first + count)
    assert owners.shape == (count,)
    before = mixture.before(first)
    assert before.sum() == first
    np.testing.assert_array_equal(
        before + np.bincount(owners, minlength=len(weights)),
        mixture.before(first + count),
    )


@quick
@given(weights, st.integers(1, 5 * PERIOD))
def test_every_beginning_is_mixed_by_the_weights(
    weights: list[float], rows: int
) -> None:
    found = Interleaving(weights).before(rows)
    wanted = rows * np.array(weights) / sum(weights)
    # half the number of sources, and what rounding to places adds up to
    bound = (len(weights) + 1) / 2 + len(weights) * rows / PERIOD
    assert np.all(np.abs(found - wanted) <= bound)
    assert np.all(found[np.array(weights) == 0] == 0)


def test_a_period_has_exact_shares_evenly_spread() -> None:
    owners = Interleaving([2.0, 1.0, 0.0, 1.0]).sources(0, 8)
    assert np.bincount(owners).tolist() == [4, 2, 0, 2]
    assert owners[:4].tolist() == owners[4:].tolist()
    half = Interleaving([3.0, 1.0]).sources(0, 4)
    assert half.tolist() == [0, 0, 1, 0] or half.tolist() == [0, 1, 0, 0]
    # 1 in 10 ** 6 still comes: once in a period
    rare = Interleaving([1.0, 1e-6]).before(PERIOD)
    assert rare.tolist() == [PERIOD - 1, 1]
    many = Interleaving([1.0] * 7).before(PERIOD)
    assert many.sum() == PERIOD
    assert set(many.tolist()) <= {PERIOD // 7, PERIOD // 7 + 1}


@pytest.mark.parametrize(
    ("weighting", "wanted"),
    [
        (Explicit(), [5.0, 0.0, 1.0]),
        (Proportional(), [100.0, 400.0, 900.0]),
        (Temperature(2.0), [10.0, 20.0, 30.0]),
    ],
)
def test_shares_by_rule(
    weighting: Explicit | Proportional | Temperature, wanted: list[float]
) -> None:
    found = shares(weighting, [5.0, 0.0, 1.0], [100, 400, 900])
    assert found == pytest.approx(wanted)
    total = Interleaving(found).before(10 * PERIOD)
    for n, share in zip(total.tolist(), wanted, strict=True):
        exact = Fraction(share) / Fraction(sum(wanted))
        assert n / (10 * PERIOD) == pytest.approx(float(exact), abs=1 / PERIOD)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [1.0, -0.5], [float("nan")]])
def test_weights_that_say_nothing(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="weights of the sources.*at least one"):
        Interleaving(bad)
