"""T5's rule by its example, its published lengths and counting; text to text forms."""

import dataclasses
import itertools
import math
import struct
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import DataConfig, LayoutConfig, RunConfig, SpanCorruption
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.objectives import span_corruption as spans
from llmjax.tasks.objectives.span_corruption import SpanCorruptionTask
from llmjax.tasks.task import loss_of

VOCABULARY = PlainVocabulary(38)
SENTINELS = spans.sentinel_ids(VOCABULARY)
FORMS = ("encoder_decoder", "decoder")


def task(tiny, form="encoder_decoder", encoder=None, decoder=64, **fields):
    model = dataclasses.replace(tiny, architecture=form, vocab_size=160)
    data = DataConfig(packing="chunk", seq_len=decoder, encoder_seq_len=encoder)
    return SpanCorruptionTask(
        RunConfig(model, SpanCorruption(**fields), data), VOCABULARY
    )


def filled(inputs, targets, sentinels):
    """`inputs` with each sentinel as what follows it in `targets`."""
    behind, key = {}, None
    for token in targets:
        if token in sentinels:
            behind[key := token] = []
        else:
            behind[key].append(token)
    return [t for token in inputs for t in behind.get(token, [token])]


def test_layout_is_t5s_own_example():
    # Raffel et al. 2020, figure 2
    sentence = "Thank you for inviting me to your party last week ."
    words = sentence.split()
    hidden = np.array([w in ("for", "inviting", "last") for w in words])
    ids = np.arange(len(words), dtype=np.int32)
    inputs, targets = spans.corrupt(ids, hidden, np.int32([100, 101, 102]))
    names = dict(enumerate(words)) | {100: "<X>", 101: "<Y>", 102: "<Z>"}
    assert " ".join(names[i] for i in inputs.tolist()) == (
        "Thank you <X> me to your party <Y> week ."
    )
    assert " ".join(names[i] for i in targets.tolist()) == (
        "<X> for inviting <Y> last <Z>"
    )
    assert SENTINELS.tolist() == [
        VOCABULARY.special_id(f"<extra_id_{i}>") for i in range(100)
    ]


def test_capacity_is_what_t5_publishes(tiny):
    # random_spans_helper: 568 tokens make 512 inputs and 114 targets
    published = task(tiny, encoder=512, decoder=114)
    assert published.text_length == 568
    made = published.features(
        {"tokens": np.full(568, 7, np.int32)}, np.random.default_rng(0)
    )
    assert len(made["encoder_tokens"]) == 512 and len(made["tokens"]) == 114
    assert published.length(568) == 512
    assert task(tiny, encoder=512, decoder=113).text_length < 568


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("density", "mean", "encoder", "decoder"),
    [(0.15, 3.0, 64, 32), (0.5, 3.0, 40, 40), (0.3, 1.5, 33, 70), (0.9, 2.0, 32, 64)],
)
def test_capacity_is_the_longest_text_that_fits(
    form, density, mean, encoder, decoder, tiny
):
    made = task(tiny, form, encoder, decoder, noise_density=density, mean_span=mean)

    def fits(n):
        text = {"tokens": np.full(n, 7, np.int32)}
        features = made.features(text, np.random.default_rng(n))
        lengths = {k: len(v) for k, v in features.items()}
        assert max(lengths.values()) == made.length(n)
        return lengths.pop("encoder_tokens", 0) <= encoder and (
            max(lengths.values()) <= decoder
        )

    assert all(map(fits, range(2, made.text_length + 1)))
    assert not fits(made.text_length + 1)


def test_counts_round_in_float32_and_halves_to_even():
    def single(x):
        return struct.unpack("f", struct.pack("f", x))[0]

    seen = 0
    for density, mean in ((0.15, 3.0), (0.5, 8.0), (0.15, 64.0), (0.3, 3.5)):
        for n in range(2, 1200):
            # a product of two float32 is exact in float64
            noise = min(max(round(single(n * single(density))), 1), n - 1)
            count = max(round(single(noise / single(mean))), 1)
            found = spans.counts(np.array([n]), density, mean)
            assert found == (noise, count)
            seen += round(n * density) != round(single(n * single(density)))
    assert seen  # float64 would have shown


def runs(mask):
    """The lengths of the runs of hidden tokens."""
    return [len(list(g)) for hidden, g in itertools.groupby(mask) if hidden]


def test_density_and_mean_span_to_three_digits_over_100k_tokens():
    rng = np.random.default_rng(0)
    tokens = hidden = 0
    lengths: list[int] = []
    while tokens < 100_000:
        n = int(rng.integers(256, 1024))
        mask = spans.noise_mask(n, 0.15, 3.0, rng)
        assert not mask[0] and mask[-1]
        tokens, hidden = tokens + n, hidden + int(mask.sum())
        lengths += runs(mask.tolist())
    assert round(hidden / tokens, 3) == 0.150
    assert round(sum(lengths) / len(lengths), 2) == 3.00


def test_span_lengths_are_those_of_a_random_composition():
    # of 75 tokens in 25 spans: C(74 - k, 23) of the C(74, 24) begin with one of k
    rng, texts = np.random.default_rng(1), 400
    found: Counter = Counter()
    for _ in range(texts):
        found.update(runs(spans.noise_mask(500, 0.15, 3.0, rng).tolist()))
    total = 25 * texts
    for k in range(1, 9):
        p = math.comb(74 - k, 23) / math.comb(74, 24)
        error = math.sqrt(p * (1 - p) / total)
        assert abs(found[k] / total - p) < 4 * error, k


def test_all_masks_are_as_likely():
    # 8 tokens, 4 hidden in 2 spans: 3 ways to cut either four in two
    rng, draws = np.random.default_rng(2), 4500
    found = Counter(
        tuple(spans.noise_mask(8, 0.5, 2.0, rng).tolist()) for _ in range(draws)
    )
    assert len(found) == 9
    error = math.sqrt(draws / 9 * (8 / 9))
    assert max(abs(n - draws / 9) for n in found.values()) < 4 * error


TEXTS = st.lists(st.integers(3, 37), max_size=200)


@settings(deadline=None)
@given(TEXTS, st.floats(0.05, 0.95), st.floats(2, 20), st.integers(0, 9))
def test_filling_the_sentinels_gives_the_text_back(text, density, mean, seed):
    rng = np.random.default_rng(seed)
    mask = spans.noise_mask(len(text), density, mean, rng)
    inputs, targets = spans.corrupt(np.array(text, np.int32), mask, SENTINELS)
    assert filled(inputs.tolist(), targets.tolist(), set(SENTINELS.tolist())) == text
    used = [t for t in inputs.tolist() if t in SENTINELS]
    assert used == SENTINELS[: len(used)].tolist()
    if len(text) > 1:
        assert targets.tolist()[0] == SENTINELS[0] and len(used) == len(runs(mask))
    most = spans.corrupted(np.array([len(text)]), density, mean)
    assert len(inputs) <= most.inputs[0] and len(targets) <= most.targets[0]
    assert len(inputs) + len(targets) <= most.both[0]


@pytest.mark.parametrize("form", FORMS)
def test_the_two_forms_and_that_they_are_reproducible(form, tiny):
    made = task(tiny, form)
    text = {"tokens": np.arange(3, 38, dtype=np.int32)}
    one = made.features(text, np.random.default_rng(5))
    inputs, targets = made.pair(text["tokens"], np.random.default_rng(5))
    i, t = inputs.tolist(), targets.tolist()
    if form == "encoder_decoder":
        wanted = {"encoder_tokens": [*i, 2], "tokens": [1, *t], "targets": [*t, 2]}
    else:
        wanted = {
            "tokens": [1, *i, 2, *t],
            "targets": [*i, 2, *t, 2],
            "prefix": [True] * (len(i) + 2) + [False] * len(t),
            "weights": [0] * (len(i) + 1) + [1] * (len(t) + 1),
        }
    assert {k: v.tolist() for k, v in one.items()} == wanted
    other = made.features(text, np.random.default_rng(6))
    assert {k: v.tolist() for k, v in other.items()} != wanted


def rows(made, texts, encoder, decoder):
    """A padded batch of the features of `texts`."""
    rng = np.random.default_rng(0)
    batch: dict[str, np.ndarray] = {}
    for row, text in enumerate(texts):
        for name, value in made.features({"tokens": text}, rng).items():
            prefix = "encoder_" if name.startswith("encoder_") else ""
            width = encoder if prefix else decoder
            shape = len(texts), width
            batch.setdefault(name, np.zeros(shape, value.dtype))
            batch[name][row, : len(value)] = value
            for own in ("segment_ids", "positions"):
                batch.setdefault(prefix + own, np.zeros(shape, np.int32))
            batch[prefix + "segment_ids"][row, : len(value)] = 1
            batch[prefix + "positions"][row, : len(value)] = np.arange(len(value))
    return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize("form", FORMS)
def test_only_targets_are_learned(form, tiny, random_params, quick_compile):
    made = task(tiny, form, 32, 32)
    model = made.model(made.run.model, LayoutConfig())
    rng = np.random.default_rng(3)
    texts = [rng.integers(3, 38, n).astype(np.int32) for n in (20, 16)]
    batch = rows(made, texts, 32, 32)
    params = random_params(model, batch)
    targets = np.asarray(batch["targets"])
    counted = np.asarray(batch.get("weights", batch["segment_ids"])) > 0
    pairs = [made.pair(text, rng) for text in texts]
    assert counted.sum() == sum(len(t) + 1 for _, t in pairs)

    @jax.jit
    def grad(targets):
        def loss(params):
            key = jax.random.key(0)
            one = {**batch, "targets": targets}
            return loss_of(made, model)(params, {}, {}, one, key)[:2]

        return jax.grad(loss, has_aux=True)(params)

    right, count = grad(targets)
    assert float(count) == counted.sum()
    elsewhere, _ = grad(np.where(counted, targets, 5))
    jax.tree.map(np.testing.assert_array_equal, right, elsewhere)
    row, column = (int(x[0]) for x in np.nonzero(counted))
    changed = targets.copy()
    changed[row, column] = 5
    here, _ = grad(changed)
    assert any(
        bool(jnp.any(a != b))
        for a, b in zip(jax.tree.leaves(right), jax.tree.leaves(here), strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"encoder": 1024, "decoder": 1024, "mean_span": 1.0},
            r"a text of \d+ tokens has \d+ spans, and there are 100 sentinels .*; "
            r"raise task.mean_span=1.0, or lower task.noise_density=0.15",
        ),
        ({"noise_density": 0.0}, "task.noise_density is 0.0: nothing to predict"),
        (
            {"encoder": 2, "decoder": 64},
            "'span_corruption' fits no text into rows of data.seq_len=64 or "
            "data.encoder_seq_len=2; raise it",
        ),
    ],
    ids=["sentinels", "density", "rows"],
)
def test_what_cannot_be_is_named(fields, message, tiny):
    with pytest.raises(ValueError, match=message):
        task(tiny, **fields).check()
    task(tiny).check()
