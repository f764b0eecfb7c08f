"""An engine writes what `generate` writes, whatever else it does at the same time."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.config import (
    Alibi,
    Group,
    Latent,
    LayerSpec,
    Learned,
    Mixture,
    ModelConfig,
    SlidingWindow,
)
from llmjax.infer.engine import step as step_lib
from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.penalties import Penalties
from llmjax.infer.engine.request import Request
from llmjax.infer.engine.room import Room
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.language import LanguageModel

pytestmark = pytest.mark.usefixtures("quick_compile")
V, NEW = 61, 7
GREEDY, HOT = Sampling(temperature=0.0), Sampling(temperature=1.3, top_k=20, top_p=0.9)
ROTARY = ModelConfig(vocab_size=V, d_model=16, d_ff=32, num_layers=2, num_kv_heads=2)
KINDS = {
    "rotary": {},
    "window, learned, softcap": {
        "groups": (Group(1, (LayerSpec(SlidingWindow(6)),)), Group(1)),
        "positions": Learned(64),
        "softcap": 9.0,
        "sinks": True,
    },
    "latent, experts": {"heads": Latent(None, 8, 4, 4), "mlp": Mixture(4, 2, 8)},
    "alibi": {"positions": Alibi()},
}
ROOM = Room(rows=4, max_length=48, page=4, chunk=16)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(1, V, n).astype(np.int32) for n in (5, 1, 21, 2, 9, 13)]


@functools.cache
def model(kind="rotary"):
    """A model and weights drawn by numpy, large enough that draws differ."""
    lm = LanguageModel(dataclasses.replace(ROTARY, **KINDS[kind]))
    batch, rng = {"tokens": jnp.zeros((1, 4), jnp.int32)}, np.random.default_rng(3)
    shapes = jax.eval_shape(lm.init, jax.random.key(0), batch)["params"]
    return lm, jax.tree.map(
        lambda x: jnp.array(rng.normal(0.0, 0.4, x.shape), x.dtype), nn.unbox(shapes)
    )


def requests(sampling, prompts=PROMPTS, **fields):
    return [
        Request(prompt, NEW, sampling, seed=5, number=n, **fields)
        for n, prompt in enumerate(prompts)
    ]


@functools.cache
def written(kind, sampling):
    lm, params = model(kind)
    return generate(lm, params, PROMPTS, max_new_tokens=NEW, sampling=sampling, rng=5)


def same(answers, expected):
    assert [a.ids.tolist() for a in answers] == [e.tolist() for e in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_what_generate_writes(kind):
    """More texts than rows, prompts longer than a chunk, greedy and drawn together."""
    engine = Engine(*model(kind), ROOM)
    pairs = zip(requests(GREEDY), requests(HOT), strict=True)
    answers = engine.run([request for pair in pairs for request in pair])
    same(answers[::2], written(kind, GREEDY))
    same(answers[1::2], written(kind, HOT))
    assert all(a.finished == "length" for a in answers)
    assert engine.free_pages == ROOM.rows * ROOM.most and not engine.busy


@pytest.mark.parametrize(
    ("room", "counts"),
    [
        ({"pages": 8, "max_length": 32}, {"preempted"}),
        ({"pages": 20, "page": 3, "chunk": 5, "rows": 3}, set()),
    ],
    ids=["few pages", "odd sizes"],
)
def test_no_room_changes_what_is_written(room, counts):
    engine = Engine(*model(), dataclasses.replace(ROOM, **room))
    answers = engine.run(requests(HOT))
    same(answers, written("rotary", HOT))
    assert counts <= set(engine.counts), engine.counts
    assert engine.free_pages == (
        engine.room.pages or engine.room.rows * engine.room.most
    )


def test_whoever_comes_when_it_writes_the_same():
    """Requests join while others are being written, urgent ones first."""
    engine = Engine(*model(), dataclasses.replace(ROOM, rows=2))
    later = [*enumerate(requests(HOT))][::-1]
    tokens, order = {}, []
    while later or engine.busy:
        if later:
            n, request = later.pop()
            priority = -n if n == 4 else 0
            id = engine.submit(dataclasses.replace(request, priority=priority))
            tokens[id] = (n, [])
        for event in engine.turn():
            tokens[event.id][1].extend(token.id for token in event.tokens)
            order += [tokens[event.id][0]] if event.finished else []
    for n, ids in tokens.values():
        assert ids == written("rotary", HOT)[n].tolist()
    assert order.index(4) < order.index(3)


def test_a_beginning_that_is_known_is_not_read_again():
    shared = RNG.integers(1, V, 18).astype(np.int32)
    prompts = [np.append(shared, n).astype(np.int32) for n in range(1, 6)]
    fresh = [Engine(*model(), ROOM).run([r])[0] for r in requests(GREEDY, prompts)[:2]]
    engine = Engine(*model(), ROOM)
    answers = engine.run(requests(GREEDY, prompts[:1]))
    answers += engine.run(requests(GREEDY, prompts[1:]))
    assert [a.cached for a in answers] == [0, 16, 16, 16, 16]
    assert engine.counts["cached"] == 64 and engine.counts["read"] == 19 + 4 * 3
    same(answers[:2], [a.ids for a in fresh])
    for got, alone in zip(answers, fresh, strict=False):
        log_p = [[t.log_p for t in a.tokens] for a in (got, alone)]
        np.testing.assert_allclose(*log_p, atol=1e-5)
    # what was written is known too
    said = np.append(prompts[0], answers[0].ids)
    (more,) = engine.run([Request(np.append(said, 3), 2, GREEDY)])
    assert more.cached == (len(said) - 1) // 4 * 4


def test_log_probabilities_are_the_models():
    lm, params = model()
    request = dataclasses.replace(requests(HOT)[0], top=True)
    answer, plain = Engine(lm, params, ROOM).run([request, requests(HOT)[1]])
    text = np.append(request.prompt, answer.ids)[None]
    logits_BTV, _ = jax.jit(lm.apply)({"params": params}, {"tokens": text})
    log_p_TV = np.asarray(jax.nn.log_softmax(logits_BTV[0, len(request.prompt) - 1 :]))
    for token, log_p_V in zip(answer.tokens, log_p_TV, strict=False):
        assert abs(token.log_p - log_p_V[token.id]) < 1e-5
        assert len(token.top) == step_lib.TOP and token.top[0][0] == log_p_V.argmax()
        expected = np.sort(log_p_V)[::-1][: step_lib.TOP]
        np.testing.assert_allclose([p for _, p in token.top], expected, atol=1e-5)
    assert not plain.tokens[0].top


def penalised(lm, params, prompt, weighs, count):
    """Greedy, a whole forward pass a token; the formulas in numpy."""
    apply = jax.jit(lm.apply)
    text = np.zeros(len(prompt) + count, np.int32)
    text[: len(prompt)] = prompt
    for n in range(len(prompt), len(text)):
        logits_BTV, _ = apply({"params": params}, {"tokens": text[None]})
        logits = np.array(logits_BTV[0, n - 1])
        for i in {*text[:n].tolist()}:
            r = weighs.repetition
            logits[i] = logits[i] / r if logits[i] > 0 else logits[i] * r
        for i in text[len(prompt) : n].tolist():
            logits[i] -= weighs.frequency
        for i in {*text[len(prompt) : n].tolist()}:
            logits[i] -= weighs.presence
        for i, value in weighs.bias:
            logits[i] += value
        text[n] = logits.argmax()
    return text[len(prompt) :].tolist()


def test_penalties_are_their_formulas_in_any_room():
    """Also of texts that give way, beside ones without, in slots that had others."""
    kinds = [
        Penalties(repetition=1.8),
        Penalties(frequency=0.7, presence=0.9),
        Penalties(1.3, 0.2, 0.1, bias=((7, 1.5), (9, -100.0))),
        Penalties(),
    ]
    lm, params = model()
    asked = [
        dataclasses.replace(request, penalties=kind, max_new_tokens=14)
        for request, kind in zip(requests(GREEDY, PROMPTS[:4]), kinds, strict=True)
    ]
    expected = [
        np.array(penalised(lm, params, r.prompt, r.penalties, 14)) for r in asked
    ]
    assert len({tuple(e.tolist()) for e in expected}) == 4
    engine = Engine(lm, params, dataclasses.replace(ROOM, pages=11, max_length=40))
    same(engine.run(asked), expected)
    before = step_lib.step._cache_size()
    same(engine.run(asked[::-1] + asked), expected[::-1] + expected)
    assert engine.counts["preempted"]
    assert step_lib.step._cache_size() - before <= 2  # more tables, no more values
    outside = dataclasses.replace(asked[0], penalties=Penalties(bias=((V, 1.0),)))
    with pytest.raises(ValueError, match=f"token {V}, outside"):
        engine.submit(outside)
    with pytest.raises(ValueError, match="repetition is 0.0; it must be above 0"):
        Penalties(repetition=0.0)


class Broken:
    """A constraint that fails when it is asked for the third time."""

    complete = ended = False

    def __init__(self):
        self.left = 2

    def allowed(self):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("broken")
        return np.full(2, 0xFFFFFFFF, np.uint32)

    def advance(self, token):
        pass


def test_a_constraint_that_fails_ends_its_own_text():
    engine = Engine(*model(), ROOM)
    broken = dataclasses.replace(requests(GREEDY)[0], constraint=Broken())
    answers = engine.run([broken, *requests(GREEDY)[1:3]])
    assert [a.finished for a in answers] == ["failed", "length", "length"]
    same(answers[1:], written("rotary", GREEDY)[1:3])
    assert engine.free_pages == ROOM.rows * ROOM.most


class Exhausted:
    """A constraint that allows nothing any more."""

    ended = False

    def __init__(self, complete):
        self.complete = complete

    def allowed(self):
        return np.zeros(2, np.uint32)

    def advance(self, token):
        raise AssertionError(f"{token} was drawn, which is not allowed")


def test_where_nothing_is_allowed_nothing_is_drawn():
    engine, asked = Engine(*model(), ROOM), requests(HOT, PROMPTS[:2])
    for n, complete in enumerate((True, False)):
        asked[n] = dataclasses.replace(asked[n], constraint=Exhausted(complete))
    answers = engine.run(asked)
    assert [a.finished for a in answers] == ["stop", "constraint"]
    same(answers, [np.array([], np.int32)] * 2)
    assert engine.free_pages == ROOM.rows * ROOM.most


def test_stops_and_cancelled_texts():
    ids = written("rotary", GREEDY)[0].tolist()
    engine = Engine(*model(), ROOM)
    ended = engine.run(requests(GREEDY, PROMPTS[:1], stop_tokens=(ids[3], V - 1)))
    same(ended, [np.array(ids[: ids.index(ids[3])])])
    assert ended[0].finished == "stop"
    kept, gone, waits = map(engine.submit, requests(GREEDY, PROMPTS[:3]))
    engine.turn()
    assert engine.cancel(gone) and engine.cancel(waits) and not engine.cancel(99)
    events = []
    while engine.busy:
        events += engine.turn()
    reasons = {e.id: e.finished for e in events if e.finished}
    assert reasons == {kept: "length", gone: "cancelled", waits: "cancelled"}
    assert not engine.cancel(gone)
    assert engine.free_pages == ROOM.rows * ROOM.most


def test_after_warming_up_nothing_compiles():
    engine = Engine(*model(), dataclasses.replace(ROOM, rows=3))
    compiled = engine.warm_up()
    before = step_lib.step._cache_size()
    assert compiled == (3 + 1) * 2  # rows 1, 2, 3; chunk 16; tables 4, 12
    for sampling in (GREEDY, HOT, Sampling(0.7, min_p=0.1)):
        same(engine.run(requests(sampling)), written("rotary", sampling))
    assert step_lib.step._cache_size() == before


def test_logits_that_are_not_finite_end_one_text():
    lm, params = model()
    unseen = min({*range(1, V)} - {*written("rotary", GREEDY)[0], *PROMPTS[0]})
    table = params["transformer"]["embedder"]["table"]
    flat = flatten_dict(params, sep="/")
    flat["transformer/embedder/table"] = table.at[unseen].set(jnp.nan)
    spoiled = {**unflatten_dict(flat, sep="/"), "unembedding": table}
    prompts = [PROMPTS[0], np.array([unseen])]
    lm = LanguageModel(dataclasses.replace(lm.cfg, tie_embeddings=False))
    engine = Engine(lm, spoiled, dataclasses.replace(ROOM, pages=12))
    answers = engine.run(requests(GREEDY, prompts))
    assert [a.finished for a in answers] == ["length", "not_finite"]
    after = engine.run(requests(GREEDY, PROMPTS[:1] * 3))  # in pages that held NaN
    same([answers[0], *after], [written("rotary", GREEDY)[0]] * 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "at least one token"),
        ({"prompt": [V]}, f"token {V}, outside the vocabulary"),
        ({"max_new_tokens": 0}, "must be at least 1"),
        ({"max_new_tokens": 48}, "more than the engine's max_length=48"),
        ({"stop_tokens": (-1,)}, "outside the vocabulary"),
        ({"seed": -1}, r"seed is -1; it must be in \[0, 2\*\*32\)"),
        ({"number": 2**32}, "number is 4294967296"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(changes, message):
    engine = Engine(*model(), ROOM)
    with pytest.raises(ValueError, match=message):
        engine.submit(dataclasses.replace(requests(GREEDY)[0], **changes))
    assert not engine.busy


def test_an_engine_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="pages=3 of 4 tokens are fewer than the 12"):
        dataclasses.replace(ROOM, pages=3)
    with pytest.raises(ValueError, match="chunk is 0; at least 1"):
        Room(chunk=0)
    two = LanguageModel(dataclasses.replace(ROTARY, architecture="encoder_decoder"))
    with pytest.raises(ValueError, match="`generate` does an encoder-decoder's"):
        Engine(two, {}, ROOM)
