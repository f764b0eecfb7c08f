"""Log-likelihoods of continuations: sums of log-probabilities, whatever the batch."""

import dataclasses

import jax
import numpy as np
import pytest

from llmjax.config import LayoutConfig, Learned
from llmjax.infer.scoring import Scorer
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("quick_compile")
LONGEST = 48
SIZES = [(1, 1), (3, 4), (40, 2), (30, 31), (1, 48), (60, 5), (47, 1), (5, 12), (2, 1)]


@pytest.fixture(scope="module")
def language_model(tiny, random_params):
    model = LanguageModel(tiny, LayoutConfig(loss_block=16))
    return model, random_params(model, {"tokens": np.zeros((1, 4), np.int32)})


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, 40, n).tolist() for n in sizes) for sizes in SIZES]


@pytest.fixture(scope="module")
def logits(language_model):
    """A text's logits by one plain forward pass; what is behind it changes nothing."""
    model, params = language_model
    apply = jax.jit(lambda tokens: model.apply({"params": params}, {"tokens": tokens}))

    def logits(text):
        row = np.zeros((1, LONGEST + 1), np.int32)
        row[0, : len(text)] = text
        return np.asarray(apply(row)[0][0, : len(text)])

    return logits


@pytest.fixture(scope="module")
def expected(logits, pairs):
    found = []
    for context, continuation in pairs:
        text = np.array([*context, *continuation], np.int32)[-LONGEST - 1 :]
        n = len(continuation)
        some = np.asarray(jax.nn.log_softmax(logits(text)[:-1]), np.float64)[-n:]
        total = some[np.arange(n), text[-n:]].sum()
        found.append((total, bool((some.argmax(1) == text[-n:]).all())))
    return found


@pytest.fixture(scope="module")
def likeliest(logits):
    """A context and the three likeliest tokens behind it."""
    text = [7, 8]
    for _ in range(3):
        text.append(int(logits(text)[-1].argmax()))
    return text[:2], text[2:]


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 4), (8, 1)])
def test_scores_are_sums_of_log_probabilities(
    language_model, pairs, expected, likeliest, devices, batch_size
):
    mesh = make_mesh(LayoutConfig(), jax.devices()[:devices])
    scorer = Scorer(
        *language_model, batch_size=batch_size, max_length=LONGEST, mesh=mesh
    )
    told = []
    asked = [*pairs, likeliest]
    *scores, greedy = scorer(asked, told.append)
    for score, (total, is_greedy) in zip(scores, expected, strict=True):
        assert score.log_likelihood == pytest.approx(total, abs=1e-5, rel=1e-5)
        assert score.greedy == is_greedy
    assert greedy.greedy
    assert sum(told) == len(asked)
    assert scorer.cut == 2  # of 61 and 65 tokens; of 49 the last one is not read
    assert scorer._score._cache_size() == 2  # of 32 and 48 tokens


def test_what_has_no_score_is_named(language_model, tiny):
    scorer = Scorer(*language_model, batch_size=2, max_length=8)
    for pair, message in (
        (([], [1]), "context 1 has shape"),
        (([1], []), "continuation 1 has shape"),
        (([1], [40]), "continuation 1 holds token 40, outside the vocabulary of 40"),
        (([1], [2] * 9), "continuation 1 has 9 tokens, and the model reads 8; raise"),
    ):
        with pytest.raises(ValueError, match=message):
            scorer([([1], [2]), pair])
    model, params = language_model
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(ValueError, match="not finite"):
        Scorer(model, broken, batch_size=1, max_length=8)([([1], [2])])
    for fields, message in (
        ({"architecture": "encoder_decoder"}, "only a 'decoder' scores"),
        ({"positions": Learned(6)}, "max_length=8 needs 8 positions"),
    ):
        other = LanguageModel(dataclasses.replace(tiny, **fields))
        with pytest.raises(ValueError, match=message):
            Scorer(other, params, batch_size=1, max_length=8)
