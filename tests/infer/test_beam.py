"""Beams find the texts and scores of transformers, or the likeliest of all texts."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import Group, LayerSpec, LongRope, ModelConfig, Rotary, SlidingWindow
from llmjax.infer import beam
from llmjax.infer.beam import beam_search
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.language import LanguageModel
from tests.parity import written

pytestmark = pytest.mark.usefixtures("quick_compile")
V, NEW = 5, 4
TINY = ModelConfig(vocab_size=V, d_model=16, d_ff=24, num_layers=2, num_kv_heads=2)
WINDOWED = dataclasses.replace(TINY, groups=(Group(2, (LayerSpec(SlidingWindow(3)),)),))
PROMPTS = [np.array(row) for row in ([1, 2, 3, 4, 1], [2], [3, 3, 1])]
CASES = [
    ("t5/1.0", "usual"),
    ("t5/1.0", "long"),
    ("bart/plain", "whole"),
    ("gpt2/tied", "long"),
    ("llama/default", "none"),
    ("llama/default", "short"),
    ("llama/default", "whole"),
]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_tokens_and_scores_are_transformers(name, way):
    golden = json.loads(written.FILE.read_text())["searches"]
    ends = written.ends_of(way, golden[f"{name} none"])
    for _, config, folder in written.folders((name,)):
        found = written.our_search(config, folder, way, ends)
    assert written.differs(found, golden[f"{name} {way}"]) is None


@pytest.fixture(scope="module")
def tiny_params(random_params):
    batch = {"tokens": np.ones((1, 2), np.int32)}
    return random_params(LanguageModel(TINY), batch, std=0.5)


def log_probabilities(params, prompt):
    """Of every text of NEW tokens behind a prompt, [V ** NEW], by full forwards."""
    texts = np.array([*itertools.product(range(V), repeat=NEW)])
    whole = np.concatenate([np.tile(prompt, (len(texts), 1)), texts], axis=1)
    logits, _ = LanguageModel(TINY).apply(
        {"params": params}, {"tokens": jnp.array(whole)}
    )
    log_p = jax.nn.log_softmax(logits)[:, len(prompt) - 1 : -1]
    each = np.take_along_axis(np.asarray(log_p), texts[..., None], 2)[..., 0]
    return texts, each


def test_with_room_for_all_beams_the_likeliest_text_of_all_is_found(tiny_params):
    prompt = PROMPTS[0]
    texts, each = log_probabilities(tiny_params, prompt)
    total = each.sum(1)
    best = np.argsort(-total)[:30]
    (found,) = beam_search(
        LanguageModel(TINY),
        tiny_params,
        [prompt],
        beams=V ** (NEW - 1),
        n_best=30,
        max_new_tokens=NEW,
        length_penalty=0.0,
    )
    assert [h.tokens.tolist() for h in found] == texts[best].tolist()
    np.testing.assert_allclose([h.score for h in found], total[best], atol=1e-5)


@pytest.mark.parametrize("penalty", [1.0, -1.0])
def test_a_score_is_the_sum_over_the_length_its_end_among_it(penalty, tiny_params):
    texts, each = log_probabilities(tiny_params, PROMPTS[1])
    end = int(texts[np.argmax(each.sum(1))][1])  # a likely one
    (found,) = beam_search(
        LanguageModel(TINY),
        tiny_params,
        PROMPTS[1:2],
        beams=8,
        n_best=8,
        max_new_tokens=NEW,
        length_penalty=penalty,
        stop_tokens=end,
    )
    assert len({len(h.tokens) for h in found}) > 1
    for text, score in found:
        ended = np.append(text, end)[:NEW]
        k = next(k for k, t in enumerate(texts) if (t[: len(ended)] == ended).all())
        expected = each[k, : len(ended)].sum() / len(ended) ** penalty
        assert score == pytest.approx(expected, rel=1e-5)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize("cfg", [TINY, WINDOWED], ids=["plain", "windowed"])
def test_a_row_s_texts_do_not_depend_on_the_others(cfg, tiny_params):
    model, options = LanguageModel(cfg), {"beams": 3, "n_best": 2, "max_new_tokens": 6}
    together = beam_search(model, tiny_params, PROMPTS, **options, stop_tokens=(4,))
    for prompt, expected in zip(PROMPTS, together, strict=True):
        (alone,) = beam_search(model, tiny_params, [prompt], **options, stop_tokens=4)
        for a, b in zip(alone, expected, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert a.score == pytest.approx(b.score, abs=1e-5)


def test_one_beam_is_the_likeliest_token_at_a_time(tiny_params):
    model = LanguageModel(TINY)
    greedy = generate(
        model,
        tiny_params,
        PROMPTS,
        max_new_tokens=6,
        sampling=Sampling(temperature=0.0),
        stop_tokens=4,
    )
    found = beam_search(
        model, tiny_params, PROMPTS, beams=1, max_new_tokens=6, stop_tokens=4
    )
    assert [row[0].tokens.tolist() for row in found] == [t.tolist() for t in greedy]


def test_other_prompts_of_a_length_s_bucket_compile_nothing(tiny_params):
    model, options = LanguageModel(TINY), {"beams": 2, "max_new_tokens": 3}
    beam_search(model, tiny_params, PROMPTS, **options)
    before = beam.search._cache_size()
    beam_search(model, tiny_params, [row[::-1] for row in PROMPTS], **options)
    assert beam.search._cache_size() == before
    assert beam_search(model, tiny_params, [], **options) == []


LONG = LongRope((1.0,) * 2, (2.0,) * 2, original_length=6)  # for heads of 4


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {"n_best": 3}, "n_best is 3 and beams is 2"),
        ({}, {"stop_tokens": (0, 1, 2, 3, 4)}, "5 stop_tokens leave no other token"),
        ({}, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"positions": Rotary(scaling=LONG)}, {}, "at token 2 of the continuation"),
    ],
)
def test_mistakes_are_named(fields, options, message, tiny_params):
    model = LanguageModel(dataclasses.replace(TINY, **fields))
    usual = {"beams": 2, "max_new_tokens": 3}
    with pytest.raises(ValueError, match=message):
        beam_search(model, tiny_params, PROMPTS[:1], **usual | options)
