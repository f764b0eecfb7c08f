"""A text's logits and greedy tokens hang on nothing that lies beside it.

Neither on other rows, nor on padding, nor on its place in a pack, nor on how a batch is
cut: for every kind of position, and for every family of the hub.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.hub.load import load
from llmjax.infer.generate import generate, generates
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.replaced_tokens import Discriminator
from tests.parity import goldens

pytestmark = pytest.mark.usefixtures("quick_compile")

ORIGINAL = 6  # the longer text outgrows it, the others don't
LENGTHS = (9, 4)
NEW = 5
LONG_ROPE = config.LongRope((1.0, 1.3, 1.7), (3.0, 5.0, 9.0), ORIGINAL, 1.2)
DYNAMIC = config.DynamicScaling(4.0, ORIGINAL)


def rotary(scaling, **changes):
    return config.Rotary(100.0, scaling=scaling, **changes)


KINDS = {
    "none": config.NoPositions(),
    "learned": config.Learned(32),
    "sinusoidal": config.Sinusoidal(),
    "rotary": config.Rotary(100.0),
    "linear": rotary(config.LinearScaling(2.0)),
    "dynamic": rotary(DYNAMIC),
    "dynamic, interleaved": rotary(DYNAMIC, interleaved=True),
    "yarn": rotary(config.YaRN(4.0, ORIGINAL)),
    "llama3": rotary(config.Llama3Scaling(4.0, original_length=ORIGINAL)),
    "longrope": rotary(LONG_ROPE),
    "alibi": config.Alibi(),
    "relative_bias": config.RelativeBias(8, 6),
    "transformer_xl": config.TransformerXL(),
    "disentangled": config.Disentangled(3, 6),
}
OWN = config.LayerSpec(config.SlidingWindow(4), positions=rotary(LONG_ROPE))
MODELS = {name: {"positions": kind} for name, kind in KINDS.items()} | {
    "longrope of a layer": {"groups": (config.Group(1, (config.LayerSpec(), OWN)),)},
    "latent longrope": {
        "positions": KINDS["longrope"],
        "heads": config.Latent(8, 8, 6),
    },
    "encoder": {"positions": KINDS["longrope"], "architecture": "encoder"},
}


def texts(vocab_size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocab_size, n, dtype=np.int32) for n in LENGTHS]


def crowd(rows, width=16):
    """The texts padded right, padded left, and packed in two orders.

    And of each place its text, row, segment and tokens.
    """
    layout = [
        [(0, 0)],
        [(width - LENGTHS[0], 0)],
        [(0, 1)],
        [(width - LENGTHS[1], 1)],
        [(1, 0), (1 + LENGTHS[0], 1)],
        [(2, 1), (2 + LENGTHS[1], 0)],
    ]
    tokens, segments, positions = np.zeros((3, len(layout), width), np.int32)
    places = []
    for b, row in enumerate(layout):
        for number, (start, i) in enumerate(row):
            at = slice(start, start + LENGTHS[i])
            tokens[b, at], segments[b, at] = rows[i], number + 1
            positions[b, at] = np.arange(LENGTHS[i])
            places.append((i, b, number, at))
    return {"tokens": tokens, "segment_ids": segments, "positions": positions}, places


def check_logits(model, params, source=None):
    """Each text's logits, states or classes in a crowd are those of the text alone."""
    rows = texts(model.cfg.vocab_size)

    def run(batch):
        if source is not None:
            batch |= {"encoder_tokens": np.repeat(source, len(batch["tokens"]), 0)}
        out = apply({"params": params}, batch)
        return out if classes or isinstance(model, Discriminator) else out[0]

    apply, classes = jax.jit(model.apply), isinstance(model, SequenceClassifier)
    alone = [run({"tokens": row[None]})[0] for row in rows]
    batch, places = crowd(rows)
    if classes:  # of each of a row's segments
        batch["valid"] = (batch["segment_ids"][:, :, None] == [1, 2]).any(1)
    together = run(batch)
    for i, b, segment, at in places:
        own = together[b, segment if classes else at]
        tolerance = 2e-5 * np.abs(alone[i]).max()
        np.testing.assert_allclose(own, alone[i], rtol=0, atol=tolerance)


def greedy(model, params, rows, **given):
    sampling = Sampling(temperature=0.0)
    return generate(model, params, rows, max_new_tokens=NEW, sampling=sampling, **given)


def check_tokens(model, params, source=None):
    """Greedy tokens of prompts together are those of each alone."""
    rows = texts(model.cfg.vocab_size)
    sources = [] if source is None else [source[0], source[0, :3]]
    given = {"encoder_tokens": sources} if sources else {}
    together = greedy(model, params, rows, **given)
    for i, row in enumerate(rows):
        given = {"encoder_tokens": sources[i : i + 1]} if sources else {}
        np.testing.assert_array_equal(
            greedy(model, params, [row], **given)[0], together[i]
        )


@pytest.fixture
def tiny_model(tiny, random_params):
    def make(name):
        cfg = dataclasses.replace(tiny, num_layers=1, num_kv_heads=None, **MODELS[name])
        model = LanguageModel(cfg)
        return model, random_params(model, {"tokens": jnp.zeros((1, 4), int)})

    return make


@pytest.mark.parametrize("name", MODELS)
def test_logits_for_every_kind_of_position(name, tiny_model):
    check_logits(*tiny_model(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "encoder"])
def test_greedy_tokens_for_every_kind_of_position(name, tiny_model):
    check_tokens(*tiny_model(name))


# one of each way to attend and to place tokens; tests.proofs.neighbours takes all
FAMILIES = (
    "t5-1.1",
    "deberta-v2-v3",
    "xlnet-plain",
    "gpt_oss-alternating",
    "llama-classes",
)


def check_family(name, folder):
    """Both for a golden of the hub, which is written to `folder`."""
    golden = goldens.read(goldens.FOLDER / f"{name}.npz")
    golden.write(folder)
    model, params = load(folder)
    source = golden.inputs.encoder_tokens
    source = None if source is None else source[:1]
    check_logits(model, params, source)
    if generates(model):
        check_tokens(model, params, source)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, tmp_path):
    check_family(name, tmp_path)


def full(model, params):
    """A function from a text to the logits [T, V] of an uncached forward pass."""
    apply = jax.jit(model.apply)

    def logits(text):
        tokens = np.pad(text, (0, 16 - len(text)))[None]
        segments = (np.arange(16) < len(text)).astype(np.int32)[None]
        batch = {"tokens": tokens, "segment_ids": segments}
        batch["positions"] = np.arange(16)[None] * segments
        return np.asarray(apply({"params": params}, batch)[0][0, : len(text)])

    return logits


@pytest.mark.parametrize(
    "name",
    [
        "longrope",
        pytest.param("longrope of a layer", marks=pytest.mark.slow),
        pytest.param("latent longrope", marks=pytest.mark.slow),
    ],
)
def test_a_longrope_token_is_an_uncached_forward_of_the_text_before_it(
    name, tiny_model
):
    """Prompts on either side of the original length, all in one batch."""
    model, params = tiny_model(name)
    forward, rng = full(model, params), np.random.default_rng(1)
    prompts = [rng.integers(3, 40, n) for n in (ORIGINAL - 2, ORIGINAL, ORIGINAL + 1)]
    for prompt, new in zip(prompts, greedy(model, params, prompts), strict=True):
        assert len(new) == NEW
        for step, token in enumerate(new):
            logits_V = forward(np.append(prompt, new[:step]))[-1]
            assert logits_V[token] >= logits_V.max() - 1e-4
            assert logits_V.max() - np.median(logits_V) > 1e-2


def test_dynamic_tokens_are_those_of_the_whole_text(tiny_model):
    """One forward pass of prompt and continuation has every step's logits."""
    model, params = tiny_model("dynamic")
    prompts, forward = texts(40), full(model, params)
    for prompt, new in zip(prompts, greedy(model, params, prompts), strict=True):
        logits_TV = forward(np.append(prompt, new))
        steps_MV = logits_TV[len(prompt) - 1 : -1]
        chosen_M = steps_MV[np.arange(NEW), new]
        assert (chosen_M >= steps_MV.max(-1) - 1e-4).all()


def test_stopped_rows_stay_stopped_where_others_change_their_rates(tiny_model):
    model, params = tiny_model("longrope")
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 40, n) for n in (ORIGINAL - 2, ORIGINAL)]
    free = greedy(model, params, prompts)
    stop = int(free[1][0])  # it ends the second row before the first one crosses
    for row, whole in zip(
        greedy(model, params, prompts, stop_tokens=[stop]), free, strict=True
    ):
        ends = np.flatnonzero(whole == stop)
        np.testing.assert_array_equal(row, whole[: ends[0]] if len(ends) else whole)
