"""Wrappers of a loss against their formulas in numpy, and their effects, on a bag of
words whose vectors are an `Embedder`'s: nothing is compiled for long."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.config import (
    FGM,
    PGD,
    SMART,
    FreeLB,
    LayoutConfig,
    Mixup,
    ModelConfig,
    RDrop,
)
from llmjax.models.embedder import Embedder
from llmjax.models.heads.classifier import SequenceClassifier, texts
from llmjax.tasks.craft import agreement, mixup
from llmjax.tasks.craft.adversarial import adversarial, free_lb, gradient
from llmjax.tasks.craft.mixout import mixed, mixout
from llmjax.tasks.craft.perturbation import perturbed, seen, step
from llmjax.tasks.labelled.multiple_choice import MultipleChoiceTask
from llmjax.tasks.labelled.question_answering import QuestionAnsweringTask
from llmjax.tasks.labelled.token_classification import TokenClassificationTask
from llmjax.tasks.losses import binary_divergence, divergence
from llmjax.tasks.routing import Routed
from llmjax.tasks.task import Composed

V, M, C = 12, 6, 3
KEY = jax.random.key(0)


class Bag(nn.Module):
    """The mean of each text's vectors, through tanh, as scores."""

    dropout: float = 0.0

    def setup(self):
        cfg = ModelConfig(vocab_size=V, d_model=M, num_heads=1)
        self.embedder = Embedder(cfg, LayoutConfig())
        self.drop = nn.Dropout(self.dropout, deterministic=False)
        self.out = nn.Dense(C, use_bias=False)

    def __call__(self, batch):
        x_BTM = jnp.tanh(self.embedder.embeddings(batch))
        member_BGT = texts(batch)
        count = jnp.maximum(member_BGT.sum(-1, keepdims=True), 1)
        x_BGM = jnp.einsum("BTM,BGT->BGM", x_BTM, member_BGT / count)
        if self.dropout and self.has_rng("dropout"):
            x_BGM = self.drop(x_BGM)
        return self.out(x_BGM)


def composed(model):
    def outputs(params, frozen, batch, rng):
        rngs = {} if rng is None else {"dropout": rng}
        return model.apply({"params": params}, batch, rngs=rngs)

    def score(logits, batch, training=False):
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        total, count = jnp.sum(nll * batch["valid"]), jnp.sum(batch["valid"])
        return total, count, {"loss": (total, count)}

    return Composed(outputs, score)


def apart(one, other, batch):
    return jnp.sum(divergence(one, other) * batch["valid"])


@pytest.fixture(scope="module")
def batch():
    """Two packed rows: texts of 3 and 2 tokens, then one of 4; padding."""
    return {
        "tokens": jnp.array([[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 0, 0]]),
        "segment_ids": jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]),
        "label": jnp.array([[0, 1], [2, 0]]),
        "valid": jnp.array([[1.0, 1.0], [1.0, 0.0]]),
    }


@pytest.fixture(scope="module")
def params(batch):
    params = nn.unbox(Bag().init(KEY, batch))["params"]
    return jax.tree.map(lambda x: 20 * x if x.shape == (V, M) else 2 * x, params)


@pytest.fixture(scope="module")
def loss():
    return composed(Bag())


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# --- divergences and R-Drop ----------------------------------------------------------


def test_divergences_are_those_of_their_formulas():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 4)).astype(np.float32)
    p, q = softmax(a.astype(np.float64)), softmax(b.astype(np.float64))
    both = (p * np.log(p / q) + q * np.log(q / p)).sum(-1)
    ours = divergence(jnp.array(a), jnp.array(b))
    np.testing.assert_allclose(ours, both, rtol=1e-5)
    p, q = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (a, b))
    there = p * np.log(p / q) + q * np.log(q / p)
    away = (1 - p) * np.log((1 - p) / (1 - q)) + (1 - q) * np.log((1 - q) / (1 - p))
    ours = binary_divergence(jnp.array(a), jnp.array(b))
    np.testing.assert_allclose(ours, there + away, rtol=1e-4)
    never = jnp.full((1, 3), -1e9)
    assert float(divergence(never, never)[0]) == 0


def test_divergences_of_tasks_count_what_their_scores_do():
    """Words that begin, choices that are there, places of the text, valid rows."""
    rng = np.random.default_rng(0)
    one, other = (jnp.float32(rng.standard_normal((2, 5, 3))) for _ in range(2))
    p, q = softmax(np.float64(one)), softmax(np.float64(other))
    of_words = (p - q) * (np.log(p) - np.log(q))
    word = jnp.array([[1, 0, 2, 3, 0], [1, 2, 0, 0, 0]])
    tags = TokenClassificationTask.divergence
    routed = [Routed((x, None)) for x in (one, other)]
    here = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]])[..., None]
    np.testing.assert_allclose(
        tags(None, *routed, {"word": jnp.array(word)}),
        (of_words * here).sum(),
        rtol=1e-5,
    )
    few, fewer = one[:, 0].at[0, 2].set(-jnp.inf), other[:, 0].at[0, 2].set(-jnp.inf)
    p, q = softmax(np.float64(few[0, :2])), softmax(np.float64(fewer[0, :2]))
    batch = {"label": jnp.zeros(2, jnp.int32), "valid": jnp.array([1.0, 0.0])}
    choices = MultipleChoiceTask.divergence(None, Routed(few), Routed(fewer), batch)
    np.testing.assert_allclose(choices, ((p - q) * np.log(p / q)).sum(), rtol=1e-5)
    ends, others = one[..., :2], other[..., :2]
    rows = {"segment_ids": jnp.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])}
    p, q = (softmax(np.float64(x[0, :3]).T) for x in (ends, others))
    places = QuestionAnsweringTask.divergence(
        None, Routed(ends), Routed(others), {**rows, "valid": batch["valid"]}
    )
    np.testing.assert_allclose(places, ((p - q) * np.log(p / q)).sum() / 2, rtol=1e-5)


def test_r_drop_is_the_mean_loss_and_half_of_both_divergences(params, batch):
    loss = composed(Bag(0.4))
    wrapped = agreement.r_drop(loss, RDrop(weight=3.0), apart)
    total, count, metrics, _ = wrapped(params, {}, {}, batch, KEY)
    one, other = (
        np.float64(loss.outputs(params, {}, batch, k)) for k in jax.random.split(KEY)
    )
    p, q = softmax(one), softmax(other)
    nll = [
        -np.log(np.take_along_axis(x, batch["label"][..., None], -1)) for x in (p, q)
    ]
    kl = (p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1)
    each = (nll[0] + nll[1])[..., 0] / 2 + 3.0 * kl / 2
    np.testing.assert_allclose(
        total, (each * np.array(batch["valid"])).sum(), rtol=1e-5
    )
    assert count == 3 and metrics["divergence"][0] > 0.01
    plain, evaluated = (
        loss(params, {}, {}, batch, None),
        wrapped(params, {}, {}, batch, None),
    )
    assert plain[0] == evaluated[0] and "divergence" not in evaluated[2]


# --- adversarial ---------------------------------------------------------------------


def vector_gradient(params, batch):
    """The gradient of the summed loss by the token vectors, by hand."""
    batch = jax.device_get(batch)
    (table,) = map(np.float64, jax.tree.leaves(params["embedder"]))
    W = np.float64(params["out"]["kernel"])
    x = table[batch["tokens"]]
    out = np.zeros_like(x)
    for b in range(2):
        for g in range(2):
            own = batch["segment_ids"][b] == g + 1
            if not batch["valid"][b, g]:
                continue
            p = softmax(np.tanh(x[b][own]).mean(0) @ W)
            p[batch["label"][b, g]] -= 1
            out[b][own] = (W @ p) * (1 - np.tanh(x[b][own]) ** 2) / own.sum()
    return out


def fgm_deltas(loss, params, batch, radius):
    _, lookups = seen(loss, params, {}, batch, None)
    zeros = tuple(jnp.zeros_like(lookup.x_BTM) for lookup in lookups)
    grads = gradient(loss, params, {}, batch, None, zeros)
    return grads, step(lookups, grads, zeros, radius, radius), lookups


def test_fgm_goes_along_each_texts_own_gradient(loss, params, batch):
    (grad,), (delta,), _ = fgm_deltas(loss, params, batch, 0.5)
    expected = vector_gradient(params, batch)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)
    for b, own in ((0, [0, 1, 2]), (0, [3, 4]), (1, [0, 1, 2, 3])):
        g = expected[b, own]
        np.testing.assert_allclose(
            delta[b, jnp.array(own)], 0.5 * g / np.linalg.norm(g), rtol=1e-4, atol=1e-6
        )
    assert not np.any(delta[batch["segment_ids"] == 0])


def test_fgm_adds_the_loss_of_moved_texts(loss, params, batch):
    wrapped = adversarial(loss, FGM(radius=0.5, weight=2.0))
    total, count, metrics, _ = wrapped(params, {}, {}, batch, KEY)
    plain = loss(params, {}, {}, batch, KEY)[0]
    _, deltas, _ = fgm_deltas(loss, params, batch, 0.5)
    moved = perturbed(loss, params, {}, batch, KEY, deltas)
    worse = loss.score(moved, batch)[0]
    np.testing.assert_allclose(total, plain + 2 * worse, rtol=1e-6)
    assert worse > plain + 0.1 and count == 3
    assert metrics["loss"][0] == plain
    np.testing.assert_allclose(metrics["adversarial_loss"][0], worse, rtol=1e-6)

    # the perturbation is held: the gradient is that of both losses at fixed vectors
    def fixed(params):
        moved = perturbed(loss, params, {}, batch, KEY, deltas)
        return loss(params, {}, {}, batch, KEY)[0] + 2 * loss.score(moved, batch)[0]

    ours = jax.grad(lambda p: wrapped(p, {}, {}, batch, KEY)[0])(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        ours,
        jax.grad(fixed)(params),
    )


def test_pgd_climbs_and_stays_within_the_radius(loss, params, batch):
    def worse(config):
        wrapped = adversarial(loss, config)
        return wrapped(params, {}, {}, batch, KEY)[2]["adversarial_loss"][0]

    np.testing.assert_allclose(
        worse(PGD(radius=0.5, step_size=0.5, steps=1)), worse(FGM(0.5)), rtol=1e-6
    )
    one, four = (worse(PGD(radius=0.5, step_size=0.2, steps=n)) for n in (1, 4))
    assert four > one
    (_, deltas, lookups) = fgm_deltas(loss, params, batch, 0.5)
    (_, (again,), _) = fgm_deltas(loss, params, batch, 0.5)
    (further,) = step(lookups, (again,), deltas, 3.0, 0.7)
    lengths = lookups[0].length(further)[batch["segment_ids"] > 0]
    np.testing.assert_allclose(lengths, 0.7, rtol=1e-5)


def test_freelb_is_the_mean_along_the_ascent(loss, params, batch):
    plain = loss(params, {}, {}, batch, KEY)[0]
    still = free_lb(loss, FreeLB(steps=1, init=0.0))
    np.testing.assert_allclose(still(params, {}, {}, batch, KEY)[0], plain, rtol=1e-6)
    config = FreeLB(radius=0.5, step_size=0.2, steps=3, init=0.0)
    total, count, metrics, _ = free_lb(loss, config)(params, {}, {}, batch, KEY)
    _, lookups = seen(loss, params, {}, batch, KEY)
    deltas, totals = (jnp.zeros_like(lookups[0].x_BTM),), []
    for _ in range(3):
        outputs = perturbed(loss, params, {}, batch, KEY, deltas)
        totals.append(loss.score(outputs, batch)[0])
        grads = gradient(loss, params, {}, batch, KEY, deltas)
        deltas = step(lookups, grads, deltas, 0.2, 0.5)
    np.testing.assert_allclose(total, np.mean(totals), rtol=1e-5)
    np.testing.assert_allclose(metrics["adversarial_loss"][0], totals[-1], rtol=1e-5)
    assert totals[0] < totals[1] < totals[2] and count == 3


def test_a_model_without_token_vectors_is_refused(batch):
    blind = Composed(lambda *_: jnp.zeros((2, 2, C)), lambda *_: None)
    wrapped = adversarial(blind, FGM())
    with pytest.raises(ValueError, match="this model looks up none by"):
        wrapped({}, {}, {}, batch, KEY)


# --- SMART ---------------------------------------------------------------------------


def test_smart_adds_the_furthest_output_nearby(loss, params, batch):
    config = SMART(2.0, 0.1, 0.2, 2, 0.05, proximal=0.0)
    wrapped = agreement.smart(loss, config, apart, 1)
    total, _, metrics, extra = wrapped(params, {}, {}, batch, KEY)
    plain = loss(params, {}, {}, batch, KEY)[0]
    np.testing.assert_allclose(total, plain + 2 * metrics["smoothness"][0], rtol=1e-6)
    assert extra == {}
    outputs, lookups = seen(loss, params, {}, batch, KEY)

    def moved(deltas):
        return apart(perturbed(loss, params, {}, batch, KEY, deltas), outputs, batch)

    key = jax.random.fold_in(KEY, agreement.NOISE)
    (delta,) = agreement.furthest(config, lookups, moved, key)
    assert jnp.abs(delta).max() <= 0.1 and not delta[batch["segment_ids"] == 0].any()
    np.testing.assert_allclose(metrics["smoothness"][0], moved((delta,)), rtol=1e-5)
    noise = 0.1 * jax.random.uniform(key, delta.shape, minval=-1, maxval=1)
    assert moved((delta,)) > 1.5 * moved((lookups[0].real(noise),))


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_average_of_smart_moves_once_a_step(microbatches):
    average = agreement.Average({"w": jnp.zeros(2)}, jnp.int32(0))
    weights = [np.array([1.0, 2.0]), np.array([3.0, -2.0]), np.array([5.0, 0.0])]
    expected = weights[0]
    for k, w in enumerate(weights):
        if k:
            expected = 0.75 * expected + 0.25 * w
        for _ in range(microbatches):
            average = average.after({"w": jnp.float32(w)}, 0.75, microbatches)
            np.testing.assert_allclose(average.weights["w"], expected, rtol=1e-6)


def test_smart_is_near_to_its_average(loss, params, batch):
    config = SMART(weight=0.0, proximal=4.0, momentum=0.5)
    wrapped = agreement.smart(loss, config, apart, 1)
    zeros = agreement.Average(jax.tree.map(jnp.zeros_like, params), jnp.int32(0))
    extra = {agreement.PROXIMAL: zeros}
    *_, metrics, extra = wrapped(params, {}, extra, batch, KEY)
    assert metrics["proximity"][0] == 0  # the average is these very weights
    moved = jax.tree.map(lambda x: x + 0.2, params)
    total, _, metrics, _ = wrapped(moved, {}, extra, batch, KEY)
    middle = jax.tree.map(lambda x: x + 0.1, params)
    one, other = (loss.outputs(p, {}, batch, KEY) for p in (moved, middle))
    np.testing.assert_allclose(
        metrics["proximity"][0], apart(one, other, batch), rtol=1e-4
    )
    plain = loss(moved, {}, {}, batch, KEY)[0]
    np.testing.assert_allclose(total, plain + 4 * metrics["proximity"][0], rtol=1e-5)


# --- mixup and mixout ----------------------------------------------------------------


def test_mixup_mixes_vectors_and_labels(batch):
    class Scorer(SequenceClassifier):
        def setup(self):
            pass

        def __call__(self, batch):
            return self.scores(batch["x"])

        def scores(self, x_BGD):
            return x_BGD

    model = Scorer(ModelConfig(), C)
    x = jax.random.normal(KEY, (2, 2, C))
    loss = dataclasses.replace(
        composed(model), outputs=lambda p, f, b, r: model.apply({}, b)
    )
    rows = {**batch, "x": x}
    total, count, *_ = mixup.mixup(loss, Mixup(alpha=1.0))({}, {}, {}, rows, KEY)
    pairs = mixup.partners(rows, 1.0, jax.random.fold_in(KEY, mixup.SHARE))
    share, place = float(pairs.share), np.array(pairs.place_N)
    valid, label = (np.array(batch[k]).ravel() for k in ("valid", "label"))
    flat, expected = np.array(x).reshape(4, C), 0.0
    for k in np.flatnonzero(valid):
        other = place[k] if valid[place[k]] else k
        log_p = np.log(softmax(share * flat[k] + (1 - share) * flat[other]))
        expected -= share * log_p[label[k]] + (1 - share) * log_p[label[other]]
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert 0.02 < share < 0.98 and count == 3 and any(place != np.arange(4))


def test_mixout_mixes_in_the_first_weights_and_expects_the_others():
    rng = np.random.default_rng(0)
    own = {"a": jnp.float32(rng.standard_normal((40, 5))), "b": jnp.ones(3)}
    first = {"a": jnp.float32(rng.standard_normal((40, 5))), "b": jnp.zeros(3)}
    share = 0.25
    draws = jax.vmap(lambda key: mixed(own, first, share, ["a"], key)["a"])(
        jax.random.split(KEY, 4000)
    )
    u, w = np.array(first["a"]), np.array(own["a"])
    old = np.isclose(draws, u)
    new = np.isclose(draws, u + (w - u) / (1 - share), atol=1e-5)
    assert np.all(old | new)
    assert abs(old.mean() - share) < 0.005
    error = np.abs(draws.mean(0) - w) / (np.abs(w - u) + 1e-3)
    assert error.max() < 0.05  # 4 standard errors of a mean of 4000
    assert mixed(own, first, share, ["a"], KEY)["b"] is own["b"]


def test_mixout_leaves_an_evaluation_alone(loss, params, batch):
    first = jax.tree.map(jnp.zeros_like, params)
    wrapped = mixout(loss, 0.5, ["out/kernel"], reads=False)
    frozen = {"reference": first}
    plain = loss(params, {}, {}, batch, None)[0]
    assert wrapped(params, frozen, {}, batch, None)[0] == plain
    assert wrapped(params, frozen, {}, batch, KEY)[0] != plain


# --- effects -------------------------------------------------------------------------


def trained(loss, params, batch, steps=60):
    optimizer = optax.adam(0.03)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(lambda p: loss(p, {}, {}, batch, key)[0])(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        keys = jax.random.split(KEY, steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return run(params)


@pytest.mark.parametrize("config", [FGM(0.7), FreeLB(0.7, 0.4, 3)])
def test_who_learned_under_perturbations_withstands_them(config, loss, params, batch):
    wrap = free_lb if isinstance(config, FreeLB) else adversarial
    attacked = adversarial(loss, FGM(0.7))

    def worst(params):
        return attacked(params, {}, {}, batch, KEY)[2]["adversarial_loss"][0]

    plain = worst(trained(loss, params, batch))
    assert worst(trained(wrap(loss, config), params, batch)) < 0.8 * plain


def test_r_drop_brings_two_masks_together(params, batch):
    loss = composed(Bag(0.4))
    told = []
    for weight in (1e-6, 10.0):
        wrapped = agreement.r_drop(loss, RDrop(weight), apart)
        fitted = trained(wrapped, params, batch)

        @jax.jit
        @jax.vmap
        def divergences(key, wrapped=wrapped, fitted=fitted):
            return wrapped(fitted, {}, {}, batch, key)[2]["divergence"][0]

        told.append(divergences(jax.random.split(jax.random.key(1), 32)).mean())
    assert told[1] < 0.6 * told[0]
