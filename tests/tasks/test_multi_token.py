"""Heads that look further ahead: their sum, ends and memory, and the first alone."""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    CausalLM,
    Group,
    LayerSpec,
    LayoutConfig,
    LossConfig,
    Mixture,
    MultiTokenPrediction,
    RunConfig,
    SlidingWindow,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.infer.generate import generate
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.multi_token import PredictionHeads, last_apart
from llmjax.tasks.objectives.causal_lm import CausalLMTask
from llmjax.tasks.objectives.multi_token_prediction import MultiTokenPredictionTask
from llmjax.tasks.task import loss_of
from tests.tasks.fit import fit

pytestmark = pytest.mark.usefixtures("quick_compile")

SEGMENTS = np.int32([[1] * 5 + [2] * 7, [1] * 2 + [2] * 6 + [0] * 4])
BATCH = {
    "tokens": jnp.arange(24).reshape(2, 12) * 7 % 38,
    "targets": (jnp.arange(24).reshape(2, 12) * 5 + 1) % 38,
    "num_bytes": jnp.arange(24).reshape(2, 12) % 3 + 1,
    "segment_ids": jnp.asarray(SEGMENTS),
    "positions": jnp.int32(
        [[*range(5), *range(7)], [0, 1, *range(6), *range(4)]],
    ),
}


def task(cfg, depth=3, block=128, **loss) -> MultiTokenPredictionTask:
    run = RunConfig(
        cfg,
        MultiTokenPrediction(depth),
        layout=LayoutConfig(loss_block=block),
        loss=LossConfig(**loss),
    )
    return MultiTokenPredictionTask(run, PlainVocabulary(38))


def head_alone(params, k):
    """A causal model's weights whose last layer is head k."""
    transformer = params["transformer"]
    stack = {a: b for a, b in transformer["stack"].items() if a[:5] != "head_"}
    if k > 1:
        stack["group_1"] = transformer["stack"][f"head_{k}"]
    return params | {"transformer": transformer | {"stack": stack}}


def logits_of(cfg, params) -> np.ndarray:
    logits_BTV, _ = jax.jit(LanguageModel(cfg).apply)({"params": params}, BATCH)
    return np.asarray(logits_BTV, np.float64)


@functools.cache
def places(ahead: int) -> list[tuple[int, int]]:
    """(row, place) with a target so many tokens ahead within its segment."""
    found = []
    for b in range(2):
        for t in range(12):
            far = t + ahead - 1  # `targets` are one ahead themselves
            if far < 12 and SEGMENTS[b, far] == SEGMENTS[b, t] > 0:
                found.append((b, t))
    return found


@pytest.mark.parametrize("training", [True, False])
def test_each_head_is_a_causal_model_of_its_own(training, tiny, random_params):
    """Against the plain computation: heads one by one, places one by one."""
    z_loss, smooth = 0.1, 0.2
    bound = task(tiny, block=5, z_loss=z_loss, label_smoothing=smooth)
    model = bound.model(tiny, bound.run.layout)
    params = random_params(model, BATCH)
    rng = jax.random.key(0) if training else None
    got = jax.jit(loss_of(bound, model))(params, {}, 7, BATCH, rng)
    total, count, metrics, extra = got
    minimised = 0.0
    for k in (1, 2, 3):
        logits_BTV = logits_of(model.cfg, head_alone(params, k))
        nll = right = 0.0
        for b, t in places(k):
            logits_V, target = logits_BTV[b, t], BATCH["targets"][b, t + k - 1]
            log_z = np.log(np.exp(logits_V).sum())
            nll += log_z - logits_V[target]
            right += logits_V.argmax() == target
            minimised += (1 - smooth) * (log_z - logits_V[target])
            minimised += smooth * (log_z - logits_V.mean()) + z_loss * log_z**2
        name, seen = "" if k == 1 else f"_{k}", len(places(k))
        np.testing.assert_allclose(metrics[f"loss{name}"], (nll, seen), rtol=1e-5)
        if not training:
            found = metrics[f"accuracy{name}"]
            np.testing.assert_array_equal(found, (right, seen))
    assert (len(places(1)), len(places(2)), len(places(3))) == (20, 16, 12)
    assert (int(count), int(extra)) == (20, 7)
    np.testing.assert_allclose(total, minimised, rtol=1e-5)
    assert "bits_per_byte_2" not in metrics
    np.testing.assert_allclose(
        metrics["bits_per_byte"][1],
        (np.asarray(BATCH["num_bytes"]) * (SEGMENTS > 0)).sum(),
    )


def test_the_gradient_is_of_the_sum_of_the_heads(tiny, random_params):
    bound = task(tiny, depth=2, block=5)
    model = bound.model(tiny, bound.run.layout)
    params = random_params(model, BATCH)

    def plain(params):
        total = 0.0
        for k in (1, 2):
            head = LanguageModel(model.cfg)
            logits, _ = head.apply({"params": head_alone(params, k)}, BATCH)
            p_BTV = jax.nn.log_softmax(logits)
            for b, t in places(k):
                total -= p_BTV[b, t, BATCH["targets"][b, t + k - 1]]
        return total

    def ours(params):
        return loss_of(bound, model)(params, {}, {}, BATCH, jax.random.key(0))[0]

    want, got = jax.jit(lambda p: (jax.grad(plain)(p), jax.grad(ours)(p)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want
    )


def test_one_head_is_causal_language_modelling(tiny, random_params):
    bound = task(tiny, depth=1)
    causal = CausalLMTask(RunConfig(tiny, CausalLM()), PlainVocabulary(38))
    one, other = bound.model(tiny, LayoutConfig()), causal.model(tiny, LayoutConfig())
    params = random_params(one, BATCH)
    same = random_params(other, BATCH)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    got = jax.jit(loss_of(bound, one))(params, {}, {}, BATCH, None)
    want = jax.jit(loss_of(causal, other))(params, {}, {}, BATCH, None)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    text = {"tokens": np.int32([5, 6, 7])}
    rng = np.random.default_rng(0)
    made, wanted = bound.features(text, rng), causal.features(text, rng)
    jax.tree.map(np.testing.assert_array_equal, made, wanted)


def test_the_first_head_generates_as_a_model_without_the_others(tiny, random_params):
    cfg = dataclasses.replace(tiny, tie_embeddings=False, output_bias=True)
    model = PredictionHeads(last_apart(cfg), depth=3)
    params = random_params(model, BATCH)
    alone = head_alone(params, 1)
    plain = LanguageModel(model.cfg)
    prompts = [[1, 5, 9], [3]]
    got = generate(model, params, prompts, max_new_tokens=4)
    want = generate(plain, alone, prompts, max_new_tokens=4)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)

    @jax.jit
    def each(params, alone):
        ours = model.apply({"params": params}, BATCH, method="hidden")
        return ours, plain.apply({"params": alone}, BATCH, method="hidden")

    np.testing.assert_array_equal(*each(params, alone))


def shapes_of(jaxpr) -> set[tuple[int, ...]]:
    """Of all that a program computes, its inner programs' too."""
    found = set()
    for equation in jaxpr.eqns:
        found |= {v.aval.shape for v in equation.outvars}
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found |= shapes_of(inner)
    return found


def test_logits_never_exist_as_a_whole(tiny):
    V, block = 53, 4
    cfg = dataclasses.replace(tiny, vocab_size=V)
    bound = task(cfg, block=block)
    model = bound.model(cfg, bound.run.layout)
    params = jax.eval_shape(model.init, jax.random.key(0), BATCH)["params"]

    def total(params):
        return loss_of(bound, model)(params, {}, {}, BATCH, jax.random.key(0))[0]

    shapes = shapes_of(jax.make_jaxpr(jax.grad(total))(params).jaxpr)
    logits = {s for s in shapes if V in s and s not in ((V,), (V, 16), (16, V))}
    assert (2, block, V) in logits
    assert max(np.prod(s) for s in logits) == 2 * block * V


def test_the_last_layer_stands_apart(tiny):
    local, wide = LayerSpec(SlidingWindow(4)), LayerSpec()
    cfg = dataclasses.replace(tiny, groups=(Group(1, (wide,)), Group(3, (local, wide))))
    assert last_apart(cfg).groups == (
        Group(1, (wide,)),
        Group(2, (local, wide)),
        Group(1, (local,)),
        Group(1, (wide,)),
    )
    assert last_apart(cfg).L == cfg.L == 7
    one = dataclasses.replace(tiny, num_layers=1)
    assert last_apart(one).groups == (Group(1),)
    shared = dataclasses.replace(tiny, groups=(Group(3, shared=True),))
    with pytest.raises(ValueError, match="shares its weights .* shared=False"):
        task(shared).check()
    sparse = dataclasses.replace(tiny, mlp=Mixture())
    with pytest.raises(ValueError, match="mixture of experts; task 'multi_token"):
        task(sparse).check()
    task(sparse, depth=1).check()


def test_heads_learn_what_lies_ahead(tiny, random_params):
    """Counting by one or by two: what comes after next is as sure as the next."""
    start, by = np.arange(6)[:, None] * 5, np.array([[1], [2]] * 3)
    counts = (start + by * np.arange(13)) % 35 + 3
    batch = {
        "tokens": jnp.asarray(counts[:, :-1], jnp.int32),
        "targets": jnp.asarray(counts[:, 1:], jnp.int32),
        "segment_ids": jnp.ones((6, 12), jnp.int32),
    }
    bound = task(tiny, depth=2)
    model = bound.model(tiny, LayoutConfig())
    params = random_params(model, batch, std=0.05)
    fitted, before, after = fit(loss_of(bound, model), params, batch, steps=80)
    for name in ("loss", "loss_2"):
        first, last = (float(m[name][0] / m[name][1]) for m in (before, after))
        assert first > 3 and last < 1, name
    predicted = jax.jit(bound.predict(model))({"params": fitted}, batch)
    right = np.asarray(predicted) == np.asarray(batch["targets"])
    assert right.sum() == after["accuracy"][0] > 0.8 * right.size
