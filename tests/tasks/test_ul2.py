"""UL2's denoisers: how often, which rule, which token, and that all of them fit."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import UL2, DataConfig, Denoiser, ModelConfig, RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives import ul2
from llmjax.tasks.objectives.span_corruption import sentinel_ids
from llmjax.tasks.objectives.ul2 import UL2Task

VOCABULARY = PlainVocabulary(38)
SENTINELS = set(sentinel_ids(VOCABULARY).tolist())
MODES = {VOCABULARY.special_id(f"[{m}]"): m for m in "RSX"}
FORMS = ("encoder_decoder", "decoder")


def task(form="decoder", rows=128, encoder=None, **fields):
    model = ModelConfig(architecture=form, vocab_size=160)
    data = DataConfig(packing="chunk", seq_len=rows, encoder_seq_len=encoder)
    return UL2Task(RunConfig(model, UL2(**fields), data), VOCABULARY)


def text(n):
    return np.random.default_rng(n).integers(3, 38, n).astype(np.int32)


def test_denoisers_come_by_weight_and_say_their_mode():
    denoisers = (
        Denoiser("R", 0.15, 3.0, 1.0),
        Denoiser("S", 0.25, None, 2.0),
        Denoiser("X", 0.5, 8.0, 0.5),
    )
    made, rng, draws = task(denoisers=denoisers), np.random.default_rng(0), 4000
    example = text(80)
    found: Counter = Counter()
    for _ in range(draws):
        inputs, targets = made.pair(example, rng)
        mode = MODES[int(inputs[0])]
        found[mode] += 1
        hidden = int((targets < 38).sum())
        shown = sum(int(t) in SENTINELS for t in inputs)
        if mode == "S":
            assert shown == 0 and [*inputs[1:], *targets] == example.tolist()
        else:  # 80 tokens: 12 in 4 spans, 40 in 5
            assert (hidden, shown) == {"R": (12, 4), "X": (40, 5)}[mode]
    for mode, weight in {"R": 1.0, "S": 2.0, "X": 0.5}.items():
        p = weight / 3.5
        error = math.sqrt(p * (1 - p) / draws)
        assert abs(found[mode] / draws - p) < 4 * error


def test_the_published_mixture_is_seven_denoisers_as_likely():
    # table 1; told apart by what 300 tokens become: mode, tokens hidden, spans
    wanted = {
        ("R", 45, 15): 1,
        ("R", 45, 6): 1,
        ("X", 150, 50): 1,
        ("X", 150, 19): 1,
        ("X", 45, 1): 1,
        ("X", 150, 2): 1,
        ("S", None, 0): 1,
    }
    made, rng, draws = task(rows=512), np.random.default_rng(1), 3500
    example = text(300)
    found: Counter = Counter()
    for _ in range(draws):
        inputs, targets = made.pair(example, rng)
        mode = MODES[int(inputs[0])]
        hidden = None if mode == "S" else int((targets < 38).sum())
        found[mode, hidden, sum(int(t) in SENTINELS for t in inputs)] += 1
    assert set(found) == set(wanted)
    error = math.sqrt(draws * 1 / 7 * 6 / 7)
    assert max(abs(n - draws / 7) for n in found.values()) < 4 * error


def test_a_prefix_ends_where_t5s_does():
    # random_prefix_noise_mask: uniform from round((1 - 2 * 0.25) * 40) to 40 of 41
    made = task(denoisers=(Denoiser("S", 0.25, None),), mode_tokens=False)
    rng, draws = np.random.default_rng(2), 4200
    ends = Counter(len(made.pair(text(41), rng)[0]) for _ in range(draws))
    assert set(ends) == set(range(20, 41))
    error = math.sqrt(draws / 21 * 20 / 21)
    assert max(abs(n - draws / 21) for n in ends.values()) < 4 * error
    # a quarter of the text is written, the paper's mean
    hidden = sum((41 - k) * n for k, n in ends.items()) / (41 * draws)
    spread = math.sqrt((21**2 - 1) / 12 / draws) / 41
    assert abs(hidden - 11 / 41) < 4 * spread
    for n, wanted in ((0, (0, 0)), (1, (0, 0)), (2, (1, 1)), (3, (1, 2)), (6, (2, 5))):
        (least,), (most,) = ul2.prefixes(np.array([n]), 0.25)
        assert (least, most) == wanted, n


@pytest.mark.parametrize("form", FORMS)
def test_all_share_the_longest_text_that_fits_whichever_is_drawn(form):
    made = task(form, rows=128, encoder=100)
    assert made.text_length == min(
        task(form, rows=128, encoder=100, denoisers=(d,)).text_length
        for d in UL2().denoisers
    )
    rng = np.random.default_rng(3)

    def longest(n):
        """Of all streams, by how much it is beyond its row."""
        features = [made.features({"tokens": text(n)}, rng) for _ in range(400)]
        rows = {"encoder_tokens": 100}
        beyond = {
            k: max(len(f[k]) for f in features) - rows.get(k, 128) for k in features[0]
        }
        return max(beyond.values())

    assert longest(made.text_length) <= 0 < longest(made.text_length + 1)
    assert made.length(made.text_length) <= 128


@settings(deadline=None)
@given(st.lists(st.integers(3, 37), max_size=120), st.integers(0, 50))
def test_filling_the_sentinels_gives_the_text_back(tokens, seed):
    made = task()
    example = np.array(tokens, np.int32)
    inputs, targets = made.pair(example, np.random.default_rng(seed))
    mode, *inputs = inputs.tolist()
    if MODES[mode] == "S":
        assert [*inputs, *targets.tolist()] == tokens
        return
    behind, key = {}, None
    for token in targets.tolist():
        if token in SENTINELS:
            behind[key := token] = []
        else:
            behind[key].append(token)
    assert [t for i in inputs for t in behind.get(i, [i])] == tokens


def test_reproducible_and_without_mode_tokens():
    example = {"tokens": text(60)}
    made, plain = task(), task(mode_tokens=False)
    for seed in range(8):
        one, same = (
            made.features(example, np.random.default_rng(seed)) for _ in range(2)
        )
        bare = plain.features(example, np.random.default_rng(seed))
        for name, value in one.items():
            np.testing.assert_array_equal(value, same[name])
        assert one["tokens"][1] in MODES
        np.testing.assert_array_equal(one["tokens"][2:], bare["tokens"][1:])


@pytest.mark.parametrize(
    ("denoiser", "rows", "message"),
    [
        (Denoiser("X", 0.5, 1.5), 2048, r"100 .*raise task.denoisers\[1\].mean_span"),
        (Denoiser("S", 0.6, None), 128, r"task.denoisers\[1\].noise_density is 0.6"),
        (Denoiser("R", 0.0, 3.0), 128, r"task.denoisers\[1\].noise_density is 0.0"),
    ],
    ids=["sentinels", "prefix", "nothing"],
)
def test_what_cannot_be_is_named(denoiser, rows, message):
    good = task(denoisers=(Denoiser(),))
    good.check()
    config = dataclasses.replace(
        good.run,
        task=UL2((Denoiser(), denoiser)),
        data=dataclasses.replace(good.run.data, seq_len=rows),
    )
    with pytest.raises(ValueError, match=message):
        UL2Task(config, VOCABULARY).check()
