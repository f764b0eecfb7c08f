"""Groups of sentences, pairs made of them by counting, and what is learned of both."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    LossConfig,
    NextSentence,
    RunConfig,
    SentenceOrder,
)
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives.next_sentence import NextSentenceTask
from llmjax.tasks.objectives.sentence_order import SentenceOrderTask
from llmjax.tasks.objectives.sentences import SentenceGroups, truncated
from llmjax.tasks.task import loss_of

SIZE = 1000  # ids of a document: document d's token j is 1000 * (d + 1) + j


@dataclasses.dataclass
class Vocabulary(PlainVocabulary):
    """A sentence ends where the tests say."""

    vocab_size: int = 10**6
    ends: frozenset = frozenset()

    def sentence_ends(self, tokens):
        return np.isin(tokens, list(self.ends))


def corpus(seed=0, count=60, most=30):
    """Documents of up to `most` sentences of 1 to 12 tokens, their vocabulary, and the
    lengths of each one's sentences."""
    rng = np.random.default_rng(seed)
    sizes = [rng.integers(1, 13, rng.integers(0, most)) for _ in range(count)]
    sizes[3], sizes[-1] = np.array([], int), np.array([5])
    texts, ends = [], set()
    for d, lengths in enumerate(sizes):
        texts.append(SIZE * (d + 1) + np.arange(lengths.sum()))
        # a document's end is one though nothing says so
        ends |= set((SIZE * (d + 1) + np.cumsum(lengths) - 1)[:-1].tolist())
    return from_documents(texts), Vocabulary(ends=frozenset(ends)), sizes


@pytest.mark.parametrize("num_tokens", [1, 17, 60, 10_000])
def test_groups_are_filled_one_sentence_after_the_other(num_tokens, monkeypatch):
    monkeypatch.setattr("llmjax.tasks.objectives.sentences._BLOCK", 300)
    documents, vocabulary, sizes = corpus()
    groups = SentenceGroups(documents, vocabulary, num_tokens)
    wanted = []
    for d, lengths in enumerate(sizes):
        group, start = [], 0
        for k, n in enumerate(lengths):
            group.append(int(n))
            full = sum(group) >= num_tokens and len(group) > 1
            if full or (k == len(lengths) - 1 and len(group) > 1):
                wanted.append((d, start, group))
                start, group = start + sum(group), []
    assert len(groups) == len(wanted) > 40
    for i, (d, start, group) in enumerate(wanted):
        found = groups[i]
        assert (found["document"], found["sentences"].tolist()) == (d, group)
        first = SIZE * (d + 1) + start
        np.testing.assert_array_equal(found["tokens"], first + np.arange(sum(group)))
        assert groups.lengths[i] == min(sum(group), num_tokens)
    with pytest.raises(IndexError, match=f"group {len(groups)} of"):
        groups[len(groups)]


def test_documents_without_pairs_are_an_error():
    documents = from_documents([[1, 2, 3], [4, 5]])
    with pytest.raises(ValueError, match="none of the 2 documents has two sentences"):
        SentenceGroups(documents, Vocabulary(), 10)
    groups = SentenceGroups(from_documents([[1, 2, 3]]), Vocabulary(ends={1}), 10)
    with pytest.raises(ValueError, match="source has one document; use another"):
        groups.elsewhere(0, 3, np.random.default_rng(0))


def test_the_longer_of_a_pair_is_cut_at_both_ends():
    rng = np.random.default_rng(0)
    fronts = lost = 0
    for n, m, most in rng.integers(1, 40, (500, 3)).tolist():
        a, b = n, m
        while a + b > max(most, 2):
            a, b = (a - 1, b) if a > b else (a, b - 1)
        one, other = truncated(np.arange(n), np.arange(m), max(most, 2), rng)
        assert (len(one), len(other)) == (a, b)
        for part in (one, other):
            assert (np.diff(part) == 1).all()
        fronts += one[0] + other[0]
        lost += n + m - a - b
    assert abs(fronts / lost - 0.5) < 5 * 0.5 / math.sqrt(lost) and lost > 5000


def bound(cls, config, tiny, T=43):
    model = dataclasses.replace(tiny, architecture="encoder", token_types=2)
    documents, vocabulary, _ = corpus()
    data = DataConfig(packing="pad", seq_len=T)
    task = cls(RunConfig(model, config, data), vocabulary)
    return task, task.examples(documents)


def segments(made):
    """A and B as they were before masking, and the frame checked."""
    tokens, types = made["targets"], made["token_types"]
    a, b = tokens[types == 0], tokens[types == 1]
    assert (np.diff(types) >= 0).all()
    assert (a[0], a[-1], b[-1]) == (1, 2, 2)
    assert len(a) > 2 and len(b) > 1 and not made["weights"][tokens < 3].any()
    return a[1:-1], b[:-1]


def pairs(task, groups, epochs):
    for epoch in range(epochs):
        for i in range(len(groups)):
            made = task.features(groups[i], np.random.default_rng([0, epoch, i]))
            assert len(made["tokens"]) <= 43
            yield i, made, *segments(made)


def test_half_of_the_pairs_follow_and_the_others_are_of_other_documents(tiny):
    task, groups = bound(NextSentenceTask, NextSentence(), tiny)
    follows, lengths = [], []
    for i, made, a, b in pairs(task, groups, 14):
        document = groups[i]["document"]
        assert set(a // SIZE - 1) == {document}
        assert (np.diff(a) == 1).all() and (np.diff(b) == 1).all()
        if made["label"]:
            assert set(b // SIZE - 1) == {document} and b[0] > a[-1]
        else:
            other = set(b // SIZE - 1)
            assert len(other) == 1 and document not in other
        follows.append(int(made["label"]))
        lengths.append(len(a) + len(b))
    n = len(follows)
    assert n > 2000
    assert abs(np.mean(follows) - 0.5) < 4.5 * 0.5 / math.sqrt(n)
    # nor does the best threshold on the length tell which is which
    label, lengths = np.array(follows), np.array(lengths)
    told = max(
        max((label == (lengths >= k)).mean(), (label == (lengths < k)).mean())
        for k in range(3, 45)
    )
    assert told < 0.54


def test_adjacent_segments_are_swapped_half_of_the_time(tiny):
    task, groups = bound(SentenceOrderTask, SentenceOrder(), tiny)
    ordered = []
    for i, made, a, b in pairs(task, groups, 14):
        assert set(np.append(a, b) // SIZE - 1) == {groups[i]["document"]}
        first, second = (a, b) if made["label"] else (b, a)
        assert second[0] > first[-1]
        ordered.append(int(made["label"]))
    n = len(ordered)
    assert abs(np.mean(ordered) - 0.5) < 4.5 * 0.5 / math.sqrt(n) and n > 2000


@pytest.mark.parametrize("short", [0.0, 0.1, 1.0])
def test_a_share_of_the_pairs_is_shorter(short, tiny):
    task, groups = bound(SentenceOrderTask, SentenceOrder(short=short), tiny)
    full = {i for i in range(len(groups)) if groups.lengths[i] == 40}
    cut = [len(a) + len(b) < 40 for i, _, a, b in pairs(task, groups, 5) if i in full]
    # of goals from 2 to 40 tokens, those of whole sentences below 40
    most = short + 4.5 * math.sqrt(short * (1 - short) / len(cut))
    assert 0.7 * short - 0.08 < np.mean(cut) <= most
    assert bool(short) == any(cut)


def test_a_pair_is_a_function_of_its_rng(tiny):
    task, groups = bound(NextSentenceTask, NextSentence(), tiny)
    one, same, other = (
        [task.features(groups[i], np.random.default_rng([e, i])) for i in range(30)]
        for e in (0, 0, 1)
    )
    for a, b in zip(one, same, strict=True):
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name])
    assert any(a["label"] != b["label"] for a, b in zip(one, other, strict=True))


def batch_of(task, groups, rows, T=43):
    made = [task.features(groups[i], np.random.default_rng(i)) for i in range(rows)]
    batch = {
        name: np.stack([np.resize(np.append(m[name], [0] * T), T) for m in made])
        for name in ("tokens", "targets", "weights", "token_types")
    }
    lengths = np.array([len(m["tokens"]) for m in made])[:, None]
    batch["segment_ids"] = np.int32(np.arange(T) < lengths)
    batch["positions"] = np.int32(np.where(np.arange(T) < lengths, np.arange(T), 0))
    batch["label"] = np.int32([m["label"] for m in made])
    # the ids of these documents name them; the model has 40
    for name in ("tokens", "targets"):
        batch[name] = np.where(batch[name] < 3, batch[name], batch[name] % 30 + 3)
    return {k: jnp.asarray(v, jnp.int32) for k, v in batch.items()}


def test_the_losses_of_tokens_and_pairs_add_up(tiny, random_params, quick_compile):
    task, groups = bound(NextSentenceTask, NextSentence(), tiny)
    batch = {**batch_of(task, groups, 6), "valid": jnp.int32([1, 1, 1, 1, 1, 0])}
    batch["segment_ids"] = batch["segment_ids"] * batch["valid"][:, None]
    model = task.model(task.run.model, LayoutConfig(loss_block=4))
    params = random_params(model, batch)
    loss = jax.jit(loss_of(task, model))
    total, count, metrics, extra = loss(params, {}, 5, batch, None)
    tokens, pair = jax.jit(model.apply)({"params": params}, batch)
    weights = np.asarray(batch["weights"] * batch["valid"][:, None])
    log_p = np.asarray(jax.nn.log_softmax(tokens))
    nll = -np.take_along_axis(log_p, np.asarray(batch["targets"])[..., None], 2)[..., 0]
    log_p, label = np.asarray(jax.nn.log_softmax(pair)), np.asarray(batch["label"])
    pair_nll = -log_p[np.arange(6), label]
    wanted = (nll * weights).sum() + (pair_nll * weights.sum(1)).sum()
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert float(count) == weights.sum() and extra == 5
    pairs = {"pair_loss", "pair_accuracy", "pair_share"}
    assert set(metrics) == {"loss", "accuracy"} | pairs
    np.testing.assert_allclose(metrics["pair_share"], (label[:5].sum(), 5))
    np.testing.assert_allclose(metrics["loss"][0], (nll * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["pair_loss"], (pair_nll[:5].sum(), 5), rtol=1e-5)
    right = (np.argmax(pair, 1) == label)[:5].sum()
    np.testing.assert_allclose(metrics["pair_accuracy"], (right, 5))
    chosen = jax.jit(task.predict(model))({"params": params}, batch)
    np.testing.assert_array_equal(chosen, np.argmax(pair, 1))
    # both losses have the terms of config.loss
    terms = dataclasses.replace(task.run, loss=LossConfig(label_smoothing=0.2))
    other = jax.jit(loss_of(dataclasses.replace(task, run=terms), model))
    smoothed, _, same, _ = other(params, {}, 5, batch, None)
    uniform = -(np.asarray(jax.nn.log_softmax(tokens)).mean(-1) * weights).sum()
    uniform -= (log_p.mean(1) * weights.sum(1)).sum()
    np.testing.assert_allclose(smoothed, 0.8 * wanted + 0.2 * uniform, rtol=1e-5)
    np.testing.assert_allclose(same["pair_loss"], metrics["pair_loss"], rtol=1e-6)
    # rows add up, so that microbatches are one batch
    parts = [
        loss(params, {}, 5, jax.tree.map(lambda x, k=k: x[k::2], batch), None)
        for k in range(2)
    ]
    np.testing.assert_allclose(total, parts[0][0] + parts[1][0], rtol=1e-5)


def test_the_pair_is_told_by_the_first_token_and_the_types(tiny, random_params):
    task, groups = bound(NextSentenceTask, NextSentence(), tiny)
    batch = batch_of(task, groups, 3)
    model = task.model(task.run.model, LayoutConfig())
    params = random_params(model, batch)
    apply = jax.jit(lambda p, b: model.apply({"params": p}, b)[1])
    one, x_BTD = (
        apply(params, batch),
        model.apply({"params": params}, batch, method="hidden"),
    )
    pooled = np.tanh(
        x_BTD[:, 0] @ params["pooler"]["kernel"] + params["pooler"]["bias"]
    )
    wanted = pooled @ params["pair"]["kernel"] + params["pair"]["bias"]
    np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-5)
    alike = {**batch, "token_types": jnp.zeros_like(batch["token_types"])}
    assert np.abs(apply(params, alike) - one).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "T", "message"),
    [
        ({"token_types": 1}, 43, "model.token_types=1; set it to 2"),
        ({}, 4, "needs data.seq_len of at least 5"),
    ],
)
def test_what_does_not_fit_is_named(model, T, message, tiny):
    task, _ = bound(SentenceOrderTask, SentenceOrder(), tiny)
    run = dataclasses.replace(
        task.run,
        model=dataclasses.replace(task.run.model, **model),
        data=dataclasses.replace(task.run.data, seq_len=T),
    )
    with pytest.raises(ValueError, match=message):
        SentenceOrderTask(run, task.vocabulary).check()
