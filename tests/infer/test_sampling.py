"""Every transform against a re-derivation in numpy, token by token; then draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.infer import sampling as s
from llmjax.infer.sampling import Sampling

V = 13
RNG = np.random.default_rng(0)
RANDOM = RNG.normal(0, 2, (6, V)).astype(np.float32)
TIES = RNG.integers(-1, 2, (6, V)).astype(np.float32)
FLAT = np.zeros((1, V), np.float32)
PEAK = np.where(np.arange(V) == 4, 50.0, 0.0).astype(np.float32)[None]
ALL = np.concatenate([RANDOM, TIES, FLAT, PEAK])


def likeliest_first(row):
    return sorted(range(len(row)), key=lambda v: (-row[v], v))


def probabilities(row):
    e = np.exp(row.astype(np.float64) - row.max())
    return e / e.sum()


def kept(logits_BV):
    return [set(np.flatnonzero(np.isfinite(row))) for row in np.asarray(logits_BV)]


def nucleus(row, p):
    total, tokens = 0.0, set()
    for v in likeliest_first(row):
        tokens.add(v)
        total += probabilities(row)[v]
        if total >= p:
            break
    return tokens


@pytest.mark.parametrize("k", [1, 2, 5, V, V + 9])
def test_top_k_keeps_the_k_likeliest_and_of_ties_the_first(k):
    got = s.apply_top_k(jnp.array(ALL), k)
    assert kept(got) == [set(likeliest_first(row)[:k]) for row in ALL]
    assert (np.asarray(got) == ALL)[np.isfinite(got)].all()


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.93, 1.0])
def test_top_p_keeps_the_smallest_nucleus(p):
    got = s.apply_top_p(jnp.array(ALL), p)
    expected = [nucleus(row, p) if p < 1 else set(range(V)) for row in ALL]
    assert kept(got) == expected


def test_top_p_stops_where_the_sum_is_reached():
    logits = jnp.log(jnp.array([[0.125, 0.5, 0.25, 0.125]]))
    assert kept(s.apply_top_p(logits, 0.74)) == [{1, 2}]
    assert kept(s.apply_top_p(logits, 0.76)) == [{0, 1, 2}]


@pytest.mark.parametrize("p", [0.0, 0.05, 0.4, 1.0])
def test_min_p_keeps_a_fraction_of_the_likeliest(p):
    got = kept(s.apply_min_p(jnp.array(ALL), p))
    for row, tokens in zip(ALL, got, strict=True):
        q = probabilities(row)
        assert tokens == set(np.flatnonzero(q >= p * q.max()))


def test_transforms_apply_in_order_and_renormalise():
    sampling = Sampling(temperature=0.5, top_k=6, top_p=0.8, min_p=0.3)
    for row, tokens in zip(
        ALL,
        kept(s.transform(jnp.array(ALL), s.rows_of([sampling] * len(ALL)))),
        strict=True,
    ):
        left = np.full(V, -np.inf)
        first = likeliest_first(row)[:6]
        left[first] = row[first] / 0.5
        left[[v for v in range(V) if v not in nucleus(left, 0.8)]] = -np.inf
        q = probabilities(left)
        assert tokens == set(np.flatnonzero(q >= 0.3 * q.max()))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0, top_k=5),
        Sampling(top_p=0.8),
        Sampling(min_p=0.2),
    ],
)
def test_draws_have_the_frequencies_of_what_is_left(sampling):
    """A multinomial count is within 5 standard deviations of its expectation."""
    n, row = 4000, RANDOM[0]
    keys = jax.random.split(jax.random.key(1), n)
    rows = s.rows_of([sampling] * n)
    draws = s.sample(jnp.tile(jnp.array(row), (n, 1)), keys, rows)
    scaled = row / sampling.temperature
    tokens = set(range(V))
    if sampling.top_k is not None:
        tokens = set(likeliest_first(scaled)[: sampling.top_k])
    if sampling.top_p is not None:
        tokens = nucleus(scaled, sampling.top_p)
    if sampling.min_p is not None:
        q = probabilities(scaled)
        tokens = set(np.flatnonzero(q >= sampling.min_p * q.max()))
    q = probabilities(np.where([v in tokens for v in range(V)], scaled, -np.inf))
    count = np.bincount(draws, minlength=V)
    assert (np.abs(count - n * q) <= 5 * np.sqrt(n * q * (1 - q))).all()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, top_k=3, top_p=0.5, min_p=0.1),
        Sampling(temperature=s.MIN_TEMPERATURE),
        Sampling(top_k=1),
        Sampling(top_p=1e-9),
    ],
)
def test_greedy_and_its_limits(sampling):
    rows = RANDOM if sampling.top_k is None and sampling.top_p is None else ALL
    rows = ALL if sampling.temperature == 0 else rows
    keys = jax.random.split(jax.random.key(2), len(rows))
    draws = s.sample(jnp.array(rows), keys, s.rows_of([sampling] * len(rows)))
    np.testing.assert_array_equal(draws, rows.argmax(-1))


def test_a_small_temperature_stays_finite():
    got = s.apply_temperature(jnp.array([[3e4, 2.9e4, -3e4]]), s.MIN_TEMPERATURE)
    assert not np.isnan(got).any() and got[0, 0] == 0


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("temperature", -0.1, "0 (greedy)"),
        ("temperature", 1e-9, "0 (greedy)"),
        ("temperature", float("nan"), "0 (greedy)"),
        ("temperature", float("inf"), "finite"),
        ("top_k", 0, "at least 1"),
        ("top_p", 0.0, "(0, 1]"),
        ("top_p", 1.1, "(0, 1]"),
        ("min_p", -0.1, "[0, 1]"),
        ("min_p", 1.1, "[0, 1]"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(field, value, accepted):
    with pytest.raises(ValueError) as e:
        Sampling(**{field: value})
    assert f"{field} is {value}" in str(e.value) and accepted in str(e.value)
