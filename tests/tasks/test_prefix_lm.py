"""Where a prefix ends, who sees it, and what is predicted."""

import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import BlockedAttention, LayoutConfig, PrefixLM, RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives.prefix_lm import PrefixLMTask
from llmjax.tasks.task import loss_of
from tests.models.test_causality import influence

pytestmark = pytest.mark.usefixtures("quick_compile")


def task(tiny, **fields) -> PrefixLMTask:
    return PrefixLMTask(RunConfig(tiny, PrefixLM(**fields)), PlainVocabulary(38))


def made(tiny, length, seed, **fields):
    text = {"tokens": np.arange(3, 3 + length, dtype=np.int32)}
    return task(tiny, **fields).features(text, np.random.default_rng(seed))


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_all_that_the_prefix_does_not_show_is_predicted(length, tiny):
    for seed in range(20):
        row = made(tiny, length, seed)
        assert row["tokens"].tolist() == [1, *range(3, 3 + length)]
        assert row["targets"].tolist() == [*range(3, 3 + length), 2]
        shown = row["tokens"][row["prefix"]]
        assert shown[0] == 1 and len(shown) <= max(length, 1)  # a token is left
        assert length < 2 or len(shown) >= 2
        assert row["prefix"].dtype == bool and row["prefix"][: len(shown)].all()
        predicted = row["targets"][row["weights"] > 0]
        assert predicted.tolist() == row["targets"][len(shown) - 1 :].tolist()
        assert not np.isin(predicted, shown).any()
        assert task(tiny).length(length) == len(row["tokens"]) == len(row["weights"])


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [({}, 1, 19), ({"min_prefix": 0.25, "max_prefix": 0.5}, 5, 10)],
)
def test_a_prefix_ends_anywhere_as_likely(fields, least, most, tiny):
    """T5's rule: uniform over [1, length); within the shares that are asked for."""
    draws, rng = 20_000, np.random.default_rng(0)
    bound = task(tiny, **fields)
    counts = np.bincount([bound.prefix_length(20, rng) for _ in range(draws)])
    p = 1 / (most - least + 1)
    wanted = np.zeros(most + 1)
    wanted[least:] = p
    error = np.sqrt(draws * p * (1 - p))
    assert len(counts) == most + 1
    assert (abs(counts - draws * wanted) <= 5 * error * (wanted > 0)).all()


def test_a_prefix_is_a_function_of_its_rng(tiny):
    def lengths(epoch):
        keys = [[0, epoch, i] for i in range(20)]
        return [int(made(tiny, 30, key)["prefix"].sum()) for key in keys]

    assert lengths(0) == lengths(0) != lengths(1)


@pytest.mark.parametrize("attention", [None, BlockedAttention(5)])
def test_a_prefix_is_seen_by_its_own_segment_alone(attention, tiny, random_params):
    """By gradient, through two layers, of rows as packing makes them."""
    parts = [made(tiny, 4, 3), made(tiny, 3, 2)]
    prefix = np.concatenate([part["prefix"] for part in parts])
    segments = np.repeat([1, 2], [5, 4])
    positions = np.concatenate([np.arange(5), np.arange(4)])
    assert prefix[:5].sum() >= 3 and prefix[5:].sum() >= 2 and not prefix.all()
    layout = LayoutConfig() if attention is None else LayoutConfig(attention=attention)
    got_TS = influence(
        tiny,
        layout,
        random_params,
        prefix=jnp.asarray(prefix[None]),
        segment_ids=jnp.asarray(segments[None]),
        positions=jnp.asarray(positions[None]),
    )[:, :9]
    same_TS = segments[:, None] == segments
    past_TS = positions[:, None] >= positions
    assert ((got_TS > 0) == (same_TS & (past_TS | prefix))).all()


def test_what_the_prefix_shows_counts_nothing(tiny, random_params):
    bound = task(tiny)
    row = made(tiny, 8, 0)
    batch = {k: jnp.asarray(v[None]) for k, v in row.items()}
    batch["segment_ids"] = jnp.ones((1, 9), jnp.int32)
    model = bound.model(tiny, LayoutConfig())
    params = random_params(model, batch)
    total, count, metrics, _ = loss_of(bound, model)(params, {}, {}, batch, None)
    other = jnp.where(batch["weights"] > 0, batch["targets"], 0)
    again = loss_of(bound, model)(params, {}, {}, {**batch, "targets": other}, None)
    assert count == row["weights"].sum() < 9 and total == again[0] > 0
    assert metrics["bits_per_byte"][1] == (row["weights"] * row["num_bytes"]).sum()
