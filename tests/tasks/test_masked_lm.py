"""What is masked, by counting; and that only predicted tokens get logits."""

import collections
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
    MaskedLM,
    Mixture,
    RunConfig,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives.causal_lm import CausalLMTask
from llmjax.tasks.objectives.masked_lm import MaskedLMTask
from llmjax.tasks.objectives.token_masking import TokenMasking, budget
from llmjax.tasks.task import loss_of

CLS, SEP, MASK = 1, 2, 5003  # of the vocabulary below


@dataclasses.dataclass
class Words(PlainVocabulary):
    """A token that 3 divides goes on with the word before it."""

    vocab_size: int = 5003

    def word_starts(self, tokens):
        return np.asarray(tokens) % 3 != 0


def masking(**fields):
    return TokenMasking(MaskedLM(**fields), Words())


def texts(count, n, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        text = rng.integers(3, 5003, n - 2, dtype=np.int32)
        yield np.concatenate([[CLS], text, [SEP]], dtype=np.int32)


def within(share, wanted, n, errors=4.5):
    """Is a share of n draws where chance puts it?"""
    assert abs(share - wanted) < errors * math.sqrt(wanted * (1 - wanted) / n), share


@pytest.mark.parametrize("n", [3, 4, 10, 17, 128, 130])
def test_single_tokens_fill_the_budget_exactly(n):
    wanted = {3: 1, 4: 1, 10: 2, 17: 3, 128: 19, 130: 20}[n]  # 0.45 .. 19.2, 19.5
    assert budget(0.15, n) == wanted
    rng = np.random.default_rng(n)
    for text in texts(20, n):
        assert masking()(text, rng)["weights"].sum() == min(wanted, n - 2)


def test_fifteen_percent_and_of_these_eighty_ten_ten():
    rule, rng = masking(), np.random.default_rng(0)
    read, targets, weights = (
        np.concatenate(parts)
        for parts in zip(
            *(rule(text, rng).values() for text in texts(800, 1000)), strict=True
        )
    )
    assert len(targets) == 800_000 and weights.sum() == 120_000
    kept = read == targets
    assert kept[weights == 0].all()
    read, kept = read[weights == 1], kept[weights == 1]
    n = len(read)
    within((read == MASK).mean(), 0.8, n)
    within(kept.mean(), 0.1 + 0.1 / 5000, n)
    within((~kept & (read != MASK)).mean(), 0.1 * 4999 / 5000, n)


def test_any_token_of_the_text_may_stand_in_alike():
    vocabulary = PlainVocabulary(43)
    rule = TokenMasking(
        MaskedLM(mask_share=0.0, random_share=1.0, rate=1.0), vocabulary
    )
    text = np.full(200_000, 7, np.int32)
    read = rule(text, np.random.default_rng(0))["tokens"]
    counts = np.bincount(read, minlength=44)
    assert counts[:3].tolist() == [0, 0, 0] and counts[43] == 0
    squares = (counts[3:43] - 5000.0) ** 2 / 5000  # chi-squared of 39: 39 +- 8.8
    assert abs(squares.sum() - 39) < 5 * math.sqrt(2 * 39)


@pytest.mark.parametrize("kind", ["token", "whole_word", "span"])
def test_specials_are_never_chosen(kind):
    rule, rng = masking(masking=kind, rate=0.6), np.random.default_rng(0)
    for text in texts(50, 40):
        text[[10, 11, 25]] = SEP  # of texts that follow one another
        made = rule(text, rng)
        assert not made["weights"][text <= SEP].any() and made["weights"].sum() > 15
        assert (made["tokens"][text <= SEP] == text[text <= SEP]).all()


@pytest.mark.parametrize("kind", ["token", "whole_word", "span"])
def test_a_choice_is_a_function_of_its_rng(kind):
    rule, text = masking(masking=kind), next(texts(1, 200))
    one, same, other = (
        rule(text, np.random.default_rng(seed)) for seed in ([0, 1], [0, 1], [0, 2])
    )
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
    assert (one["weights"] != other["weights"]).any()
    assert text.max() < MASK  # the text itself is left alone


def test_words_are_chosen_whole_and_each_as_often():
    rule, rng = masking(masking="whole_word"), np.random.default_rng(0)
    text = np.concatenate([[CLS], [4, 6, 9, 5, 7, 3] * 50, [SEP]]).astype(np.int32)
    word = np.cumsum(text % 3 != 0)
    budgets, times = budget(0.15, len(text)), np.zeros(word.max() + 1)
    for _ in range(600):
        weights = rule(text, rng)["weights"]
        chosen = np.unique(word[weights == 1])
        assert (weights == np.isin(word, chosen)).all()
        assert budgets - 2 < weights.sum() <= budgets
        times[chosen] += 1
    long, short, two = times[2:152].reshape(50, 3).mean(axis=0)  # of 3, 1, 2 tokens
    assert (3 * long + short + 2 * two) * 50 / 600 == pytest.approx(budgets, abs=1)
    # only a word that no longer fits is passed over: the short are a little ahead
    assert 0.85 * short < long < two < short


def naive_spans(n, rate, words, rng):
    """SpanBERT's scheme as its paper's 3.1 tells it, a token at a time."""
    lengths = range(1, 11)
    p = np.array([0.2 * 0.8 ** (k - 1) for k in lengths])
    chosen, count = set(), max(1, round(n * rate))
    while len(chosen) < count:
        length, anchor = rng.choice(lengths, p=p / p.sum()), rng.integers(1, n - 1)
        if anchor in chosen:
            continue
        begin = anchor
        while not words[begin]:
            begin -= 1
        seen, place = 0, begin
        while place < n - 1 and len(chosen) < count:
            seen += words[place]
            if seen > length:
                break
            chosen.add(place)
            place += 1
    return sorted(chosen)


def runs(places):
    cuts = np.flatnonzero(np.diff(places) > 1) + 1
    return [len(part) for part in np.split(np.asarray(places), cuts)]


def test_spans_are_as_long_as_spanberts():
    rule, rng = masking(masking="span"), np.random.default_rng(0)
    pmf = np.diff(rule._span_cdf, prepend=0)
    np.testing.assert_allclose(pmf @ np.arange(1, 11), 3.797, atol=5e-4)  # its "3.8"
    ours, theirs = [], []
    for text in texts(400, 300):
        made = rule(text, rng)["weights"]
        assert made.sum() == 45  # 0.15 * 300
        ours += runs(np.flatnonzero(made))
        words = (text % 3 != 0) | (text <= SEP)
        words[1] = words[-1] = True
        theirs += runs(naive_spans(300, 0.15, words, rng))
    a, b = (collections.Counter(min(k, 20) for k in r) for r in (ours, theirs))
    assert len(ours) == pytest.approx(len(theirs), rel=0.03)
    for length in range(1, 21):
        assert abs(a[length] - b[length]) < 4.5 * math.sqrt(a[length] + b[length] + 1)


def test_a_span_has_one_fate():
    rule, rng = masking(masking="span"), np.random.default_rng(0)
    fates = []
    for text in texts(300, 400):
        made = rule(text, rng)
        fate = np.where(made["tokens"] == MASK, 2, made["tokens"] != text)
        places = np.flatnonzero(made["weights"])
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            assert len(set(fate[run])) == 1
            fates.append(fate[run[0]])
    assert len(fates) > 2500
    within(np.mean(np.array(fates) == 2), 0.8, len(fates))
    within(np.mean(np.array(fates) == 1), 0.1, len(fates))


def run(tiny, packing="chunk", T=20, **fields):
    model = dataclasses.replace(tiny, architecture="encoder")
    return RunConfig(model, MaskedLM(**fields), DataConfig(packing=packing, seq_len=T))


def packed(task, rows, T):
    """Rows of texts of so many tokens each, as the pipeline lays them."""
    rng = np.random.default_rng(0)
    names = ("tokens", "targets", "weights", "segment_ids", "positions")
    batch = {name: np.zeros((len(rows), T), np.int32) for name in names}
    for r, lengths in enumerate(rows):
        column = 0
        for k, n in enumerate(lengths):
            text = rng.integers(3, 37, n, dtype=np.int32)
            made = task.features({"tokens": text}, rng)
            assert len(made["tokens"]) == task.length(n)
            here = slice(column, column + n + 2)
            for name, value in made.items():
                batch[name][r, here] = value
            batch["segment_ids"][r, here] = k + 1
            batch["positions"][r, here] = np.arange(n + 2)
            column += n + 2
    return jax.tree.map(jnp.asarray, batch)


ROWS = {"chunk": [[18], [18], [4]], "first_fit": [[5, 3, 6], [1, 1, 1, 1], [10]]}


@pytest.mark.parametrize("packing", ROWS)
def test_the_loss_is_of_the_predicted_tokens(
    packing, tiny, random_params, quick_compile
):
    task = MaskedLMTask(run(tiny, packing, rate=0.3), PlainVocabulary(38))
    batch = packed(task, ROWS[packing], 20)
    assert task.max_predictions(20) == (6 if packing == "chunk" else 20)
    model = task.model(task.run.model, LayoutConfig(loss_block=4))
    params = random_params(model, batch)
    found = jax.jit(loss_of(task, model))(params, {}, 7, batch, None)
    total, count, metrics, extra = found
    terms = dataclasses.replace(task.run, loss=LossConfig(0.1, 0.2))
    other = jax.jit(loss_of(dataclasses.replace(task, run=terms), model))
    smoothed, _, same, _ = other(params, {}, 7, batch, None)
    logits, _ = jax.jit(model.apply)({"params": params}, batch)
    there = np.asarray(batch["weights"]) == 1
    targets = np.asarray(batch["targets"])[there]
    log_p = np.asarray(jax.nn.log_softmax(logits))[there]
    wanted = -log_p[np.arange(len(targets)), targets].sum()
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (wanted, there.sum()), rtol=1e-5)
    log_z = np.asarray(jax.nn.logsumexp(logits, axis=-1))[there]
    minimised = 0.8 * wanted - 0.2 * log_p.mean(-1).sum() + 0.1 * (log_z**2).sum()
    np.testing.assert_allclose(smoothed, minimised, rtol=1e-5)
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)
    assert (float(count), extra) == (there.sum(), 7)
    assert set(metrics) == {"loss", "accuracy"}
    assert float(metrics["accuracy"][0]) == (log_p.argmax(-1) == targets).sum()
    chosen = jax.jit(task.predict(model))({"params": params}, batch)
    np.testing.assert_array_equal(chosen, np.argmax(logits, -1))


def test_its_gradient_is_that_of_all_logits(tiny, random_params, quick_compile):
    """And of the routers, where the model has some."""
    mlp = Mixture(num_experts=4, d_ff=8)
    config = run(dataclasses.replace(tiny, num_layers=1, mlp=mlp), rate=0.3)
    task = MaskedLMTask(config, PlainVocabulary(38))
    batch = packed(task, ROWS["chunk"], 20)
    plain = CausalLMTask(config, PlainVocabulary(38))
    model = task.model(config.model, LayoutConfig(loss_block=4))
    params = random_params(model, batch)
    key = jax.random.key(0)
    found, wanted = (
        jax.jit(jax.grad(lambda p, loss=loss: loss(p, {}, {}, batch, key)[0]))(params)
        for loss in (loss_of(task, model), loss_of(plain, model))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        found,
        wanted,
    )


def test_a_text_is_framed(tiny):
    task = MaskedLMTask(run(tiny), PlainVocabulary(38))
    made = task.features({"tokens": np.int32([7, 8, 9])}, np.random.default_rng(0))
    assert made["targets"].tolist() == [1, 7, 8, 9, 2] and made["weights"].sum() == 1
    assert task.text_length == 18 and task.specials == ("<mask>",)
