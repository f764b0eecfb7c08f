"""Which tokens are targets, in which order, and who sees whom: XLNet's rules."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    PermutationLM,
    RunConfig,
    TransformerXL,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives.permutation_lm import (
    PermutationLMTask,
    ordered,
    sample_spans,
)
from llmjax.tasks.task import loss_of
from tests.models.test_causality import influence
from tests.tasks.fit import fit

pytestmark = pytest.mark.usefixtures("quick_compile")

SEP, CLS = 2, 1


@pytest.fixture(scope="module")
def xlnet(tiny):
    return dataclasses.replace(
        tiny,
        architecture="encoder",
        positions=TransformerXL(segments=True),
        num_kv_heads=None,
        norm_position="post",
    )


def task(xlnet, **fields) -> PermutationLMTask:
    run = RunConfig(xlnet, PermutationLM(**fields), DataConfig(packing="chunk"))
    return PermutationLMTask(run, PlainVocabulary(38))


def text(length):
    return {"tokens": np.arange(length, dtype=np.int32) % 35 + 3}


def hidden_by_the_code(tokens, target_T, place_T) -> list[list[bool]]:
    """`_local_perm` told pair by pair: may token i of the row not attend to j?"""
    n = len(tokens)

    def given(j):
        return not target_T[j] and tokens[j] not in (SEP, CLS)

    def rank(i):
        return -1 if given(i) else int(place_T[i])

    def own(i):  # a target is not before itself, all else is
        return rank(i) if target_T[i] else rank(i) + 1

    return [[not given(j) and own(i) <= rank(j) for j in range(n)] for i in range(n)]


def test_the_features_of_a_row(xlnet):
    bound = task(xlnet)
    for seed in range(50):
        row = bound.features(text(46), np.random.default_rng(seed))
        assert row["tokens"].tolist() == [*text(46)["tokens"].tolist(), SEP, CLS]
        assert row["targets"].tolist() == row["tokens"].tolist()
        assert row["token_types"].tolist() == [0] * 47 + [2]
        assert not row["weights"][-2:].any()  # functional tokens are never predicted
        placed = row["order"] >= 0
        assert placed[-2:].all()  # and yet have a place in the order
        assert (placed[:-2] == row["weights"][:-2]).all()
        assert len(np.unique(row["order"][placed])) == placed.sum()
        assert row["order"].max() < 48
        # 48 // 6 chosen; those of them that are functional are not predicted
        assert 6 <= row["weights"].sum() <= 8
    assert all(len(v) == bound.length(46) for v in row.values())
    assert bound.text_length == 256 - 2


def test_a_separator_within_the_text_is_functional_too(xlnet):
    tokens = text(60)["tokens"]
    tokens[20] = SEP
    for seed in range(20):
        row = task(xlnet, partial=2).features(
            {"tokens": tokens}, np.random.default_rng(seed)
        )
        assert row["weights"][20] == 0 <= row["order"][20]


def test_the_mask_is_that_of_the_reference(xlnet):
    for seed, partial in itertools.product(range(5), (2, 6)):
        rng = np.random.default_rng(seed)
        row = task(xlnet, partial=partial).features(text(22), rng)
        batch = {k: jnp.asarray(v[None]) for k, v in row.items()}
        got_TS = np.asarray(ordered(batch)["hidden_mask"])[0]
        want = hidden_by_the_code(row["tokens"], row["weights"], row["order"])
        np.testing.assert_array_equal(got_TS, want)


def test_orders_are_uniform(xlnet):
    """Of two targets either is before the other as often; so are places."""
    draws, n = 4000, 12
    bound = task(xlnet, partial=1)
    orders = np.array(
        [
            bound.features(text(n - 2), np.random.default_rng([7, i]))["order"]
            for i in range(draws)
        ]
    )
    assert (np.sort(orders, axis=1) == np.arange(n)).all()
    for i in range(n):
        counts = np.bincount(orders[:, i], minlength=n)
        error = (draws * (1 / n) * (1 - 1 / n)) ** 0.5
        assert (abs(counts - draws / n) < 5 * error).all()
    before = (orders[:, 0] < orders[:, 1]).mean()
    assert abs(before - 0.5) < 5 * 0.5 / draws**0.5


def runs(chosen) -> list[tuple[int, int]]:
    """(start, length) of each run of True."""
    edges = np.flatnonzero(np.diff(np.pad(chosen, 1).astype(int)))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def test_spans_lie_in_contexts_as_published(xlnet):
    """Lengths as 1 / n; the first begins anywhere in a context of 6 times as many.

    Every token begins a word and the row is long, so that the rule alone decides.
    """
    draws, most, K = 6000, 5, 6
    starts, rng = np.ones(1000, bool), np.random.default_rng(0)
    p_N = (1 / np.arange(1, most + 1)) / (1 / np.arange(1, most + 1)).sum()
    first = np.zeros(most * K)
    lengths, gaps = np.zeros(most + 1), []
    for _ in range(draws):
        found = runs(sample_spans(starts, 12, K, most, rng))
        first[found[0][0]] += 1
        lengths[found[0][1]] += 1
        (a, n), (b, _) = found[:2]
        gaps.append(b - a - n)
        assert sum(n for _, n in found) == 12
        assert all(y - x - n >= 1 for (x, n), (y, _) in itertools.pairwise(found))
    wanted = np.zeros(most * K)
    for n, p in enumerate(p_N, 1):
        wanted[: n * K] += p / (n * K)
    for counts, p in ((first, wanted), (lengths, np.append(0, p_N))):
        error = (draws * p * (1 - p)) ** 0.5
        assert (abs(counts - draws * p) <= 5 * error).all()
    # what is left of one context, uniform over 1..6n, and the start of the next
    n, second = np.arange(1, most + 1), p_N * (np.arange(1, most + 1) * K - 1) / 2
    mean = (p_N * (n * K + 1) / 2).sum() + second.sum()
    assert abs(np.mean(gaps) - mean) < 5 * np.std(gaps) / draws**0.5


def test_spans_begin_with_words_and_the_number_is_exact(xlnet):
    starts, rng = np.arange(600) % 7 == 3, np.random.default_rng(0)
    for _ in range(50):
        chosen = sample_spans(starts, 20, 6, 5, rng)
        assert chosen.sum() == 20
        assert all(starts[begin] for begin, _ in runs(chosen))
    # where spans do not suffice, single tokens anywhere make up for it
    fill = [sample_spans(np.zeros(20, bool), 3, 6, 5, rng) for _ in range(6000)]
    assert {chosen.sum() for chosen in fill} == {3}
    p = 3 / 20
    assert (abs(np.mean(fill, axis=0) - p) < 5 * (p * (1 - p) / 6000) ** 0.5).all()
    # no span ends with the row: of two tokens, one is only drawn as the rest
    assert sample_spans(np.ones(5, bool), 5, 1, 5, rng).all()


def test_rows_are_a_function_of_their_rng(xlnet):
    def orders(epoch):
        bound = task(xlnet)
        keys = [[0, epoch, i] for i in range(5)]
        return [
            bound.features(text(30), np.random.default_rng(key))["order"].tolist()
            for key in keys
        ]

    assert orders(0) == orders(0) != orders(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_target_sees_what_is_before_it_in_its_order(seed, xlnet, random_params):
    """By gradient, through three layers: never itself, never what is later."""
    row = task(xlnet, partial=2).features(text(7), np.random.default_rng(seed))
    batch = ordered({k: jnp.asarray(v[None]) for k, v in row.items()})
    cfg = dataclasses.replace(xlnet, num_layers=3, norm_position="pre")
    got_TS = influence(
        cfg,
        LayoutConfig(),
        random_params,
        hidden_mask=batch["hidden_mask"],
        token_types=batch["token_types"],
    )[:, :9]
    order = row["order"]
    targets = np.flatnonzero(row["weights"])
    given = np.flatnonzero(order < 0)
    assert len(targets) >= 3 and len(given) >= 3
    for t in targets:
        assert ((got_TS[t] > 0) == (order < order[t])).all()
    assert (got_TS[:, given] > 0)[targets].all()  # seen by every target
    for t in given:  # itself given, it sees the given alone
        assert ((got_TS[t] > 0) == (order < 0)).all()


def test_a_loss_over_targets_and_their_predictions(xlnet, random_params):
    bound = task(xlnet, partial=3)
    rows = [bound.features(text(14), np.random.default_rng(i)) for i in (0, 1)]
    batch = {k: jnp.asarray(np.stack([r[k] for r in rows])) for k in rows[0]}
    batch["segment_ids"] = jnp.ones((2, 16), jnp.int32)
    batch["positions"] = jnp.broadcast_to(jnp.arange(16), (2, 16))
    model = bound.model(xlnet, LayoutConfig(loss_block=5))
    params = random_params(model, batch)
    hidden = [hidden_by_the_code(r["tokens"], r["weights"], r["order"]) for r in rows]
    masked = {**batch, "hidden_mask": jnp.asarray(hidden)}
    logits, _ = jax.jit(model.apply)({"params": params}, masked)
    p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    at = np.argwhere(np.asarray(batch["weights"]) > 0)
    target = [int(batch["tokens"][b, t]) for b, t in at]
    nll = -sum(p[b, t, y] for (b, t), y in zip(at, target, strict=True))
    right = sum(p[b, t].argmax() == y for (b, t), y in zip(at, target, strict=True))
    total, count, metrics, _ = jax.jit(loss_of(bound, model))(
        params, {}, {}, batch, None
    )
    np.testing.assert_allclose(total, nll, rtol=1e-5)
    assert count == len(at) and metrics["accuracy"] == (right, len(at))
    predicted = jax.jit(bound.predict(model))({"params": params}, batch)
    np.testing.assert_array_equal(predicted, p.argmax(-1))


def test_it_learns_from_what_it_sees(xlnet, random_params):
    """A row is one token again and again: any that is seen tells the others."""
    bound = task(xlnet)
    rows = []
    for i in range(8):
        tokens = np.full(14, 3 + i, np.int32)
        rows.append(bound.features({"tokens": tokens}, np.random.default_rng(i)))
    batch = {k: jnp.asarray(np.stack([r[k] for r in rows])) for k in rows[0]}
    batch["segment_ids"] = jnp.ones((8, 16), jnp.int32)
    model = bound.model(xlnet, LayoutConfig())
    params = random_params(model, batch, std=0.05)
    _, *metrics = fit(loss_of(bound, model), params, batch, steps=60)
    first, last = (m["loss"][0] / m["loss"][1] for m in metrics)
    assert first > 3 and last < 1


def test_a_model_without_two_streams_is_refused(tiny):
    cfg = dataclasses.replace(tiny, architecture="encoder")
    with pytest.raises(
        ValueError, match=r"needs model.positions.kind='transformer_xl'"
    ):
        task(cfg).check()
