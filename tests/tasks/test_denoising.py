"""BART's noises, against a literal walk through fairseq's and by counting."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import DataConfig, Denoising, ModelConfig, RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives import denoising
from llmjax.tasks.objectives.denoising import DenoisingTask

VOCABULARY = PlainVocabulary(38)
MASK = VOCABULARY.special_id("<mask>")
FORMS = ("encoder_decoder", "decoder")


def task(form="encoder_decoder", rows=64, encoder=None, **fields):
    model = ModelConfig(architecture=form, vocab_size=160)
    data = DataConfig(packing="chunk", seq_len=rows, encoder_seq_len=encoder)
    return DenoisingTask(RunConfig(model, Denoising(**fields), data), VOCABULARY)


def text(n, seed=0):
    return np.random.default_rng(seed).integers(3, 38, n).astype(np.int32)


def walk(words, share, mean, rng):
    """`add_whole_word_mask` of fairseq on words of several tokens, one by one."""
    budget, lengths = math.ceil(len(words) * share), []
    while sum(lengths) < budget:
        lengths.append(int(rng.poisson(mean)))
    lengths[-1] -= sum(lengths) - budget
    inserts = lengths.count(0)
    lengths = [k for k in lengths if k]
    out: list = [list(word) for word in words]
    gone: set = set()
    starts = rng.permutation(len(words))[: len(lengths)].tolist()
    for start, length in zip(starts, lengths, strict=True):
        out[start] = [MASK]
        gone.update(range(start + 1, start + length))
    flat = [t for i, word in enumerate(out) if i not in gone for t in word]
    for _ in range(min(inserts, sum(map(len, words)) - len(flat))):
        flat.insert(int(rng.integers(len(flat) + 1)), MASK)
    return tuple(flat)


@pytest.mark.parametrize("mean", [0.7, 3.0])
def test_infilling_is_fairseqs(mean):
    words = [(3,), (4, 5), (6,), (7, 8, 9), (10,)]
    tokens = np.array([t for w in words for t in w], np.int32)
    starts = np.array([i == 0 for w in words for i in range(len(w))])
    rng, draws = np.random.default_rng(0), 5000
    ours, theirs = Counter(), Counter()
    for _ in range(draws):
        made = denoising.infill(tokens, starts, 0.45, mean, MASK, rng)
        ours[tuple(made.tolist())] += 1
        theirs[walk(words, 0.45, mean, rng)] += 1
    assert len(ours) > 20
    for outcome in ours.keys() | theirs.keys():
        a, b = ours[outcome], theirs[outcome]
        assert abs(a - b) <= 4.5 * math.sqrt(a + b + 1), outcome


def test_spans_are_poisson_and_add_up_to_three_tenths():
    rng, found = np.random.default_rng(1), Counter()
    for _ in range(300):
        lengths = denoising.span_lengths(150, 3.0, rng)
        assert lengths.sum() == 150 and lengths[-1] > 0
        found.update(lengths[:-1].tolist())  # the last one is cut
    total = sum(found.values())
    for k in range(9):
        p = math.exp(-3) * 3**k / math.factorial(k)
        # stopping at a sum bends the shares by a fiftieth of themselves at most
        bound = 4 * math.sqrt(p * (1 - p) / total) + p / 50
        assert abs(found[k] / total - p) < bound, k


def test_how_much_of_100k_tokens_vanishes_and_how_many_masks_stand():
    tokens = np.arange(500, dtype=np.int32)
    starts, rng = np.ones(500, bool), np.random.default_rng(2)
    words = [(t,) for t in tokens.tolist()]

    def count(made):
        masks = sum(t == MASK for t in made)
        return 1 - (len(made) - masks) / 500, masks

    def ours():
        return denoising.infill(tokens + 100, starts, 0.3, 3.0, MASK, rng).tolist()

    found = np.array([count(ours()) for _ in range(200)])
    wanted = np.array([count(walk(words, 0.3, 3.0, rng)) for _ in range(200)])
    error = np.sqrt((found.var(0) + wanted.var(0)) / 200)
    assert (abs(found.mean(0) - wanted.mean(0)) < 4 * error).all()
    # spans that meet hide each other's tokens: under the 30 % that they add up to
    assert 0.24 < found.mean(0)[0] < 0.30


def test_sentences_keep_their_words_and_all_orders_are_as_likely():
    tokens = np.int32([3, 10, 4, 5, 20, 6, 30, 7])  # the last is no sentence's end
    ends = VOCABULARY.sentence_ends(tokens)
    sentences = [(3, 10), (4, 5, 20), (6, 30), (7,)]
    rng, draws = np.random.default_rng(3), 4800
    found: Counter = Counter(
        tuple(denoising.permute_sentences(tokens, ends, 1.0, rng).tolist())
        for _ in range(draws)
    )
    wanted = {sum(order, ()) for order in itertools.permutations(sentences)}
    assert set(found) == wanted and len(wanted) == 24
    error = math.sqrt(draws / 24 * 23 / 24)
    assert max(abs(n - draws / 24) for n in found.values()) < 4 * error


def test_a_share_of_the_sentences_change_places():
    tokens = np.int32([10, 20, 30, 11, 21])
    ends = np.array([True, True, True, False, True])
    rng, found, draws = np.random.default_rng(4), Counter(), 1200
    for _ in range(draws):  # ceil(0.3 * 4) = 2 of them: they stay or change places
        found[tuple(denoising.permute_sentences(tokens, ends, 0.3, rng).tolist())] += 1
    sentences = [(10,), (20,), (30,), (11, 21)]
    for i, j in itertools.combinations(range(4), 2):
        order = [*sentences]
        order[i], order[j] = order[j], order[i]
        swapped = found.pop(sum(order, ()))
        assert abs(swapped - draws / 12) < 4 * math.sqrt(draws / 12 * 11 / 12)
    assert set(found) == {tuple(tokens.tolist())}


def test_deletion_takes_its_share_of_the_tokens_and_no_mask():
    tokens = np.append(np.arange(3, 24, dtype=np.int32), [MASK] * 4)
    rng, draws = np.random.default_rng(5), 1000
    found: Counter = Counter()
    for _ in range(draws):
        made = denoising.delete(tokens, tokens != MASK, 0.2, rng)
        assert len(made) == 20 and (np.diff(made[:-4]) > 0).all()  # ceil(0.2 * 21) = 5
        found.update(made.tolist())
    assert found.pop(MASK) == 4 * draws
    error = math.sqrt(draws * 5 / 21 * 16 / 21)
    assert max(abs(n - draws * 16 / 21) for n in found.values()) < 4 * error


def test_rotation_begins_its_share_of_texts_at_any_token():
    made = task(permute_sentences=0.0, infilling=0.0, rotation=0.6)
    rng, draws, found = np.random.default_rng(6), 4000, Counter()
    tokens = np.arange(3, 11, dtype=np.int32)
    for _ in range(draws):
        inputs, targets = made.pair(tokens, rng)
        found[int(inputs[0])] += 1
        np.testing.assert_array_equal(inputs, np.roll(tokens, 3 - inputs[0]))
        np.testing.assert_array_equal(targets, tokens)
    for token in range(3, 11):
        p = 0.6 / 8 + 0.4 * (token == 3)
        assert abs(found[token] / draws - p) < 4 * math.sqrt(p * (1 - p) / draws)


def test_the_noises_come_in_fairseqs_order():
    made, tokens = task(rotation=1.0, deletion=0.1), text(50)
    inputs, _ = made.pair(tokens, np.random.default_rng(7))
    rng, ends = np.random.default_rng(7), VOCABULARY.sentence_ends(tokens)
    step = denoising.permute_sentences(tokens, ends, 1.0, rng)
    step = denoising.infill(step, np.ones(50, bool), 0.3, 3.0, MASK, rng)
    step = denoising.delete(step, step != MASK, 0.1, rng)
    rng.random()
    np.testing.assert_array_equal(inputs, np.roll(step, -rng.integers(len(step))))


SHARES = st.sampled_from([0.0, 0.3, 1.0])


@settings(deadline=None)
@given(st.integers(0, 62), st.integers(0, 99), SHARES, SHARES, SHARES, SHARES)
def test_the_target_is_the_text_and_the_inputs_are_no_longer(
    n, seed, infilling, deletion, permuted, rotation
):
    made = task(
        infilling=infilling,
        deletion=deletion,
        permute_sentences=permuted,
        rotation=rotation,
        poisson_lambda=0.5,  # many masks of no words
    )
    tokens = text(n, seed)
    before = tokens.copy()
    inputs, targets = made.pair(tokens, np.random.default_rng(seed))
    np.testing.assert_array_equal(tokens, before)
    np.testing.assert_array_equal(targets, before)
    assert len(inputs) <= n and inputs.dtype == np.int32
    left = Counter(inputs.tolist())
    masks = left.pop(MASK, 0)
    assert not left - Counter(before.tolist())
    assert bool(masks) == (infilling > 0 and n > 0)
    if not (infilling or deletion):
        assert left == Counter(before.tolist())


@pytest.mark.parametrize("form", FORMS)
def test_features_fit_and_are_reproducible(form):
    made = task(form, rows=64, encoder=80)
    assert made.text_length == {"encoder_decoder": 63, "decoder": 31}[form]
    example = {"tokens": text(made.text_length)}
    one, same, other = (
        made.features(example, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    jobs = "encoder_tokens" if form == "encoder_decoder" else "tokens"
    np.testing.assert_array_equal(one[jobs], same[jobs])
    assert one[jobs].tolist() != other[jobs].tolist()
    assert one["targets"].tolist()[-made.text_length - 1 :] == [*example["tokens"], 2]
    assert max(map(len, one.values())) <= made.length(made.text_length) <= 64


def test_a_span_of_no_mean_length_is_named():
    with pytest.raises(ValueError, match="poisson_lambda is 0.0; .* must be positive"):
        task(poisson_lambda=0.0)
