"""Cached, batched, padded generation is what full forwards of each row alone give."""

import dataclasses
import re
from functools import cache

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    BFloat16,
    BlockedAttention,
    Cosine,
    Group,
    Latent,
    LayerNorm,
    LayerSpec,
    LayoutConfig,
    Learned,
    Mixture,
    ModelConfig,
    Plain,
    RelativeBias,
    SlidingWindow,
)
from llmjax.infer.generate import (
    Encoded,
    decode,
    encode,
    generate,
    prefill,
)
from llmjax.infer.prompts import bucket, pad_left
from llmjax.infer.sampling import Sampling, rows_of
from llmjax.models.cache import empty_cache
from llmjax.models.heads.language import LanguageModel

V, NEW = 61, 6
GREEDY = Sampling(temperature=0.0)
NUCLEUS = Sampling(temperature=1.5, top_k=50, top_p=0.95, min_p=0.01)
ROTARY = ModelConfig(vocab_size=V, d_model=16, d_ff=32, num_layers=2, num_kv_heads=2)
WINDOWED = dataclasses.replace(
    ROTARY,
    groups=(Group(1, (LayerSpec(SlidingWindow(4)),)), Group(1)),
    norm=LayerNorm(),
    norm_position="both",
    positions=Learned(12 + NEW),
    scores=Cosine(),
    mlp=Plain(),
    biases="all",
    tie_embeddings=False,
)
MODELS = {
    "rotary": LanguageModel(ROTARY),
    "bfloat16": LanguageModel(ROTARY, LayoutConfig(precision=BFloat16())),
    "windowed": LanguageModel(WINDOWED, LayoutConfig(attention=BlockedAttention(8))),
    "encoder_decoder": LanguageModel(
        dataclasses.replace(ROTARY, architecture="encoder_decoder")
    ),
}
PROMPTS = [
    np.random.default_rng(i).integers(1, V, n, dtype=np.int32)
    for i, n in enumerate((5, 1, 12, 2))
]
SOURCES = [
    np.random.default_rng(9 + i).integers(1, V, n, dtype=np.int32)
    for i, n in enumerate((3, 8, 1, 6))
]


@cache
def params(name):
    """Weights drawn by numpy: compiling `init` takes longer than all of generation."""
    model, rng = MODELS[name], np.random.default_rng(3)
    batch = {"tokens": jax.ShapeDtypeStruct((1, 4), jnp.int32)}
    if model.cfg.architecture == "encoder_decoder":
        batch["encoder_tokens"] = batch["tokens"]

    def draw(path, leaf):
        mean, std = {"scale": (1, 0.1), "bias": (0, 0.1)}.get(path[-1].key, (0, 0.5))
        return jnp.asarray(rng.normal(mean, std, leaf.shape), leaf.dtype)

    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    return jax.tree_util.tree_map_with_path(draw, shapes["params"])


@cache
def run(name, sampling):
    return generate(*arguments(name), **options(name), sampling=sampling)


def arguments(name):
    return MODELS[name], params(name), PROMPTS


def options(name):
    sources = {"encoder_tokens": SOURCES} if name == "encoder_decoder" else {}
    return {"max_new_tokens": NEW, "rng": 5, **sources}


@pytest.mark.parametrize("name", MODELS)
def test_cached_greedy_is_the_argmax_of_full_forwards(name):
    """One full forward of prompt + continuation has every step's logits.

    A drawn token's logit is the largest to rounding: the two orders of summation may
    tell a near-tie differently.
    """
    model = MODELS[name]
    T = max(map(len, PROMPTS)) + NEW
    batch = {
        k: np.zeros((len(PROMPTS), T), np.int32) for k in ("tokens", "segment_ids")
    }
    for b, (prompt, new) in enumerate(zip(PROMPTS, run(name, GREEDY), strict=True)):
        assert len(new) == NEW
        batch["tokens"][b, : len(prompt) + NEW] = np.append(prompt, new)
        batch["segment_ids"][b, : len(prompt) + NEW] = 1
    if name == "encoder_decoder":
        S = max(map(len, SOURCES))
        rows = [np.pad(row, (0, S - len(row))) for row in SOURCES]
        real = [np.arange(S) < len(row) for row in SOURCES]
        batch["encoder_tokens"] = np.stack(rows)
        batch["encoder_segment_ids"] = np.stack(real).astype(np.int32)
    logits_BTV, _ = jax.jit(model.apply)({"params": params(name)}, batch)
    rounding = 0.1 if name == "bfloat16" else 1e-4
    distinct = set()
    for b, prompt in enumerate(PROMPTS):
        steps = np.asarray(logits_BTV)[b, len(prompt) - 1 : len(prompt) - 1 + NEW]
        drawn = run(name, GREEDY)[b]
        assert (steps[np.arange(NEW), drawn] >= steps.max(-1) - rounding).all()
        assert np.median(steps.max(-1) - np.median(steps, -1)) > 10 * rounding
        distinct.update(drawn.tolist())
    assert len(distinct) > 4


@pytest.mark.parametrize(
    ("name", "sampling"),
    [("rotary", NUCLEUS), ("windowed", GREEDY), ("encoder_decoder", NUCLEUS)],
)
def test_a_row_is_what_it_is_alone(name, sampling):
    model, p, _ = arguments(name)
    together = run(name, sampling)
    prefixes = {bucket(len(prompt) - 1) for prompt in PROMPTS}
    assert len(prefixes) == 2  # so the paddings differ too
    for i, prompt in enumerate(PROMPTS):
        given = options(name)
        if "encoder_tokens" in given:
            given["encoder_tokens"] = SOURCES[i : i + 1]
        alone = generate(model, p, [prompt], rows=[i], sampling=sampling, **given)
        np.testing.assert_array_equal(alone[0], together[i])


def test_a_row_does_not_change_with_the_prompts_beside_it():
    model, p, _ = arguments("rotary")
    other = [PROMPTS[0], PROMPTS[3], PROMPTS[2], PROMPTS[2]]
    got = generate(model, p, other, sampling=NUCLEUS, **options("rotary"))
    np.testing.assert_array_equal(got[0], run("rotary", NUCLEUS)[0])


def test_draws_differ_between_seeds_rows_and_steps():
    model, p, _ = arguments("rotary")
    same = [PROMPTS[2]] * len(PROMPTS)
    hot = {"max_new_tokens": NEW, "sampling": NUCLEUS}
    rows = generate(model, p, same, rng=1, **hot)
    key = generate(model, p, same, rng=jax.random.key(1), **hot)
    seed = generate(model, p, same, rng=2, **hot)
    np.testing.assert_array_equal(rows, key)
    assert len({row.tobytes() for row in [*rows, *seed]}) == 2 * len(same)
    flat = jax.tree.map(jnp.zeros_like, p)  # every step has the same logits
    for row in generate(model, flat, same, rng=1, **hot):
        assert len(set(row.tolist())) > 2


def test_a_row_ends_before_its_stop_token():
    """The stop token is what some row draws third: that row keeps two."""
    model, p, prompts = arguments("rotary")
    free = run("rotary", NUCLEUS)
    stops = (int(free[0][2]), int(free[2][0]))
    given = options("rotary")
    got = generate(
        model, p, prompts, sampling=NUCLEUS, stop_tokens=stops, pad_id=7, **given
    )
    for row, whole in zip(got, free, strict=True):
        ends = np.flatnonzero(np.isin(whole, stops))
        np.testing.assert_array_equal(row, whole[: ends[0]] if len(ends) else whole)
    assert len(got[2]) == 0 and len(got[0]) <= 2


def test_one_stop_token_is_a_list_of_one():
    model, p, prompts = arguments("rotary")
    stop = int(run("rotary", GREEDY)[0][2])
    both = [
        generate(
            model, p, prompts, stop_tokens=stops, sampling=GREEDY, **options("rotary")
        )
        for stops in (stop, [stop])
    ]
    assert len(both[0][0]) <= 2
    for one, several in zip(*both, strict=True):
        np.testing.assert_array_equal(one, several)


def test_a_prompt_that_just_fits_the_learned_positions():
    """The last token is drawn and not read: 13 + 6 tokens have 18 positions."""
    model, p, _ = arguments("windowed")
    prompt = np.append(PROMPTS[2], 1)
    (tokens,) = generate(model, p, [prompt], max_new_tokens=NEW, sampling=GREEDY)
    text = np.append(prompt, tokens)[None, :-1]
    logits_BTV, _ = jax.jit(model.apply)({"params": p}, {"tokens": text})
    drawn = np.asarray(logits_BTV)[0, len(prompt) - 1 :]
    assert len(tokens) == NEW and text.shape[1] == WINDOWED.positions.max_length
    assert (drawn[np.arange(NEW), tokens] >= drawn.max(-1) - 1e-4).all()


def test_the_loop_stops_when_every_row_has():
    model, p, prompts = arguments("rotary")
    prefix = pad_left([row[:-1] for row in prompts], 0)
    B, T = prefix["tokens"].shape
    full = prefill(model, p, prefix, cache_length=T + NEW)
    tokens_BM, lengths_B, finite_B, after = decode(
        model,
        p,
        full,
        np.array([row[-1] for row in prompts]),
        np.array([len(row) - 1 for row in prompts]),
        jax.random.key(0),
        np.arange(B),
        sampling=rows_of([GREEDY] * B),
        max_new_tokens=NEW,
        stop_tokens=tuple(range(V)),
        pad_id=7,
    )
    assert after.slot == T + 1 and not lengths_B.any() and (tokens_BM == 7).all()
    assert finite_B.all()
    assert full.layers[0][0].own.k_LBSKH.is_deleted()  # donated


TRACES = []


class Traced(LanguageModel):
    def __call__(self, *args):
        TRACES.append(args[0]["tokens"].shape)
        return LanguageModel.__call__(self, *args)


def test_the_same_shapes_compile_once():
    p = params("rotary")
    hot = {"max_new_tokens": 3, "sampling": GREEDY, "stop_tokens": [0]}
    generate(Traced(ROTARY), p, PROMPTS[:2], **hot)
    traces = len(TRACES)
    assert {(2, 8), (2, 1)} == set(TRACES)
    hot["sampling"] = NUCLEUS
    generate(Traced(ROTARY), p, [PROMPTS[3], [1, 2, 3]], rng=8, rows=[5, 6], **hot)
    assert len(TRACES) == traces
    generate(Traced(ROTARY), p, [np.ones(10, int), [1]], **hot)  # another bucket
    assert len(TRACES) > traces


def test_bucket():
    sizes = [0, 1, 8, 9, 16, 33, 64, 65, 128, 129]
    assert [bucket(n) for n in sizes] == [8, 8, 8, 16, 16, 64, 64, 128, 128, 192]


def test_padding_is_on_the_left():
    batch = pad_left([np.array([3, 4]), np.array([], np.int32)], 9)
    assert batch["tokens"].tolist() == [[9] * 6 + [3, 4], [9] * 8]
    assert batch["segment_ids"].tolist() == [[0] * 6 + [1, 1], [0] * 8]
    assert batch["positions"].tolist() == [[0] * 6 + [0, 1], [0] * 8]


@pytest.mark.parametrize("sampling", [GREEDY, NUCLEUS])
def test_logits_that_are_not_finite_are_an_error(sampling):
    model, p, prompts = arguments("rotary")
    flat = flax.traverse_util.flatten_dict(p, sep="/")
    name = "transformer/stack/final_norm/scale"
    given = options("rotary") | {"sampling": sampling}
    for scale, says in (
        (jnp.nan, f"prompt 0 has .*; {flat[name].size} values of the weight {name}"),
        (2e38, "prompt 0 has .*; all weights are finite, .* overflow in float32"),
    ):
        spoiled = flax.traverse_util.unflatten_dict(
            flat | {name: flat[name] * scale}, sep="/"
        )
        with pytest.raises(ValueError, match=says):
            generate(model, spoiled, prompts, **given)


BIG = {
    "multi-head": {},
    "windowed": {"groups": (Group(4, (LayerSpec(SlidingWindow(2048)),) * 2),)},
    "latent": {"heads": Latent(None, 64, 16, 16)},
    "encoder_decoder": {"architecture": "encoder_decoder"},
    "mixture": {"mlp": Mixture(4, 2, 32)},
    "relative bias, softcap, sinks": {
        "positions": RelativeBias(),
        "softcap": 9.0,
        "sinks": True,
    },
}


@pytest.mark.parametrize("name", BIG)
def test_the_cache_is_updated_in_place(name):
    """All of decode's temporaries stay under 1.5 of 8 layers' keys and values.

    One layer is read out at a time; copying the whole cache would take 8.
    """
    cfg = dataclasses.replace(ROTARY, num_layers=8, d_model=64, **BIG[name])
    model, B, S, source = LanguageModel(cfg), 2, 4096, 4096
    shape = jax.ShapeDtypeStruct
    tokens = shape((1, 4), jnp.int32)
    batch = {"tokens": tokens, "encoder_tokens": tokens}
    p = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))["params"]
    full = jax.eval_shape(lambda: empty_cache(cfg, B, S, jnp.dtype("float32"), source))
    each = shape((B,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    encoded = None
    if cfg.architecture == "encoder_decoder":
        states = shape((B, source, cfg.d_model), jnp.float32)
        encoded = Encoded(states, shape((B, source), jnp.int32))
    lowered = decode.lower(
        model, p, full, each, each, key, each, encoded, max_new_tokens=8
    )
    memory = lowered.compile().memory_analysis()
    layer = nbytes(full.layers[0][0]) / cfg.layers[0].repeat
    assert memory.temp_size_in_bytes < 1.5 * layer
    assert memory.alias_size_in_bytes >= nbytes(full.layers)


def nbytes(tree) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("prompts", "change", "wanted"),
    [
        ([[1], []], {}, "prompt 1 has shape (0,)"),
        ([[1, V]], {}, f"prompt 0 holds token {V}"),
        ([[-1]], {}, "prompt 0 holds token -1"),
        ([[1] * 14], {}, "needs 19 positions .* model.positions.max_length=18"),
        ([[1]], {"stop_tokens": V}, "stop_tokens"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([[1]], {"rows": [0, 1]}, "rows has 2 numbers for 1 prompts"),
        ([[1]], {"stop_tokens": [V]}, "stop_tokens"),
        ([[1]], {"pad_id": V}, "pad_id"),
        ([[1]], {"encoder_tokens": [[1]]}, "a decoder has no use"),
    ],
)
def test_a_mistake_is_named_before_tracing(prompts, change, wanted):
    with pytest.raises(ValueError) as e:
        generate(Traced(WINDOWED), None, prompts, **{"max_new_tokens": NEW, **change})
    assert re.search(wanted, str(e.value)) or wanted in str(e.value)


@pytest.mark.parametrize(
    ("architecture", "change", "wanted"),
    [
        ("encoder", {}, "does not generate"),
        ("encoder_decoder", {}, "encoder_tokens is missing"),
        ("encoder_decoder", {"encoder_tokens": []}, "0 rows for 1 prompts"),
        (
            "encoder_decoder",
            {"encoder_tokens": [[V]]},
            f"encoder_tokens 0 holds token {V}",
        ),
    ],
)
def test_encoders_mistakes(architecture, change, wanted):
    cfg = dataclasses.replace(ROTARY, architecture=architecture)
    with pytest.raises(ValueError) as e:
        generate(Traced(cfg), None, [[1]], max_new_tokens=NEW, **change)
    assert wanted in str(e.value)


def test_the_encoder_sees_no_padding():
    model, p = MODELS["encoder_decoder"], params("encoder_decoder")
    states = encode(model, p, pad_left(SOURCES, 0)).states_BSD
    other = encode(model, p, pad_left(SOURCES, 9)).states_BSD
    for i, row in enumerate(SOURCES):
        np.testing.assert_array_equal(states[i, -len(row) :], other[i, -len(row) :])


def test_no_prompts():
    assert generate(MODELS["rotary"], None, [], max_new_tokens=1) == []
