"""Each algorithm against optax's own, schedules by formula, decay, average, layers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.config import (
    SGD,
    Adafactor,
    AdamW,
    BalanceBias,
    Constant,
    Group,
    Lamb,
    Latent,
    Learned,
    Linear,
    Lion,
    Mixture,
    Muon,
    OptimizerConfig,
    RelativeBias,
    ScheduleFree,
    Transformed,
    TransformerXL,
    WarmupCosine,
)
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.axes import param_axes
from llmjax.train.optimizers import algorithms, optimizers
from tests.train import toy

AXES = {
    "mlp": {"kernel": ("D", "F"), "bias": ("F",)},
    "norm": {"scale": ("D_vector",)},
    "scores": {"log_scale": ("N",)},
}
SHAPES = {
    "mlp": {"kernel": (6, 8), "bias": (8,)},
    "norm": {"scale": (6,)},
    "scores": {"log_scale": (2,)},
}
STEPS = 20


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.float32(rng.standard_normal(s)),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def three_updates(optimizer, params, shapes=SHAPES):
    state = optimizer.init(params)
    for seed in (1, 2, 3):
        updates, state = optimizer.update(draw(seed, shapes), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), one, other
    )


def is_matrix(params):
    return jax.tree.map(lambda p: p.ndim == 2, params)


@pytest.mark.parametrize(
    ("algorithm", "decay", "alias"),
    [
        (
            AdamW(0.8, 0.9, 1e-6),
            0.2,
            lambda r: optax.adamw(r, 0.8, 0.9, 1e-6, weight_decay=0.2, mask=is_matrix),
        ),
        (
            Lion(0.8, 0.95),
            0.2,
            lambda r: optax.lion(r, 0.8, 0.95, weight_decay=0.2, mask=is_matrix),
        ),
        (SGD(0.7), 0.0, lambda r: optax.sgd(r, 0.7)),
        (
            Adafactor(0.7, 4),
            0.0,
            lambda r: optax.adafactor(r, min_dim_size_to_factor=4, decay_rate=0.7),
        ),
        (
            Lamb(0.8, 0.9, 1e-5),
            0.2,
            lambda r: optax.lamb(r, 0.8, 0.9, 1e-5, weight_decay=0.2, mask=is_matrix),
        ),
    ],
    ids=["adamw", "lion", "sgd", "adafactor", "lamb"],
)
def test_three_updates_are_those_of_optax(algorithm, decay, alias):
    config = OptimizerConfig(
        algorithm, WarmupCosine(2), 0.1, decay, "matrices", clip_norm=None
    )
    ours = optimizers.make(config, STEPS, AXES)
    theirs = alias(optimizers.schedule(config, STEPS))
    params = draw(0)
    got, _ = three_updates(ours, params)
    want, _ = three_updates(theirs, params)
    assert_close(got, want)
    assert not np.allclose(got["mlp"]["kernel"], params["mlp"]["kernel"], atol=1e-2)


def test_decay_of_all():
    sgd = OptimizerConfig(SGD(0.0), Constant(), 0.1, 0.5, "all", clip_norm=None)
    optimizer, params = optimizers.make(sgd, STEPS, AXES), draw(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert_close(updates, jax.tree.map(lambda p: -0.1 * 0.5 * p, params))


@pytest.fixture(scope="module")
def every_leaf():
    """Shapes and axes of four models that have every kind of leaf between them."""
    mixture = Mixture(4, 2, 24, 12, balance=BalanceBias())
    same = {"mlp": mixture, "output_bias": True, "tie_embeddings": False}
    models: dict = {
        "deepseek": {"heads": Latent(10, 12, 4, 6), "head_dim": 6},
        "xlnet": {"positions": TransformerXL(segments=True), "sinks": True},
        "t5": {"positions": RelativeBias(), "qk_norm": "all", "biases": "all"},
        "albert": {
            "embedding_size": 6,
            "token_types": 2,
            "positions": Learned(8),
            "groups": (Group(2, shared=True),),
            "output": Transformed(),
        },
    }
    batch = {"tokens": jax.ShapeDtypeStruct((2, 4), "int32")}
    made = {}
    for name, fields in models.items():
        cfg = dataclasses.replace(toy.CONFIG.model, **same, **fields)
        made[name] = param_axes(LanguageModel(cfg), batch)
    return {n: m[0] for n, m in made.items()}, {n: m[1] for n, m in made.items()}


def test_what_decays_by_default(every_leaf):
    shapes, axes = every_leaf
    decays: dict = {True: set(), False: set()}
    mask = optimizers.decayed(axes | {"cosine": AXES["scores"]})
    marked = mask(shapes | {"cosine": draw(0)["scores"]})
    for path, decay in jax.tree_util.tree_leaves_with_path(marked):
        decays[decay].add(path[-1].key)
    tables = {"table", "unembedding", "positions", "token_types", "segments"}
    assert decays[True] == {"kernel", *tables}
    biases = {"bias", "bias_table", "output_bias", "balance"}
    of_scores = {"content_bias", "position_bias", "segment_bias"}
    others = {"scale", "log_scale", "sinks", "query_stream"}
    assert decays[False] == biases | of_scores | others


def test_which_matrices_muon_orthogonalises(every_leaf):
    """In letters: what a kernel sums over, and what it gives; L and E are neither."""
    _, axes = every_leaf
    numbers = algorithms.matrices(axes)
    found: dict = {}
    for path, names in jax.tree_util.tree_leaves_with_path(
        axes, is_leaf=lambda x: isinstance(x, tuple)
    ):
        number = numbers.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        sides = () if number is None else number
        letters = tuple("".join(names[i] for i in side) for side in sides)
        if path[-1].key == "kernel":
            found.setdefault(path[-2].key, set()).add(letters)
        else:
            assert number is None, path
    assert found == {
        "query": {("D", "NH"), ("R", "NH")},
        "key": {("D", "KH")},
        "value": {("D", "KH")},
        "out": {("NH", "D")},
        "query_down": {("D", "R")},
        "latent_down": {("D", "R")},
        "key_value": {("R", "NH")},
        "relative": {("D", "NH")},
        "gate": {("D", "F")},
        "up": {("D", "F")},
        "down": {("F", "D")},
        "router": {()},
        "projection": {()},
        "transform": {()},
    }


def test_muon_takes_every_expert_as_a_matrix_of_its_own():
    """Of 3 layers of 4 experts each update is that of a leaf [D, F]."""
    config = OptimizerConfig(Muon(), Constant(), 0.1, 0.1, clip_norm=None)
    shapes = {"kernel": (3, 4, 6, 8)}
    stacked = optimizers.make(config, STEPS, {"kernel": ("L", "E", "D", "F")})
    params = draw(0, shapes)
    got, _ = three_updates(stacked, params, shapes)
    alone = optimizers.make(config, STEPS, {"kernel": ("D", "F")})
    for at in ((0, 0), (2, 3)):
        weights = {"kernel": params["kernel"][at]}
        state = alone.init(weights)
        for seed in (1, 2, 3):
            grads = {"kernel": draw(seed, shapes)["kernel"][at]}
            updates, state = alone.update(grads, state, weights)
            weights = optax.apply_updates(weights, updates)
        np.testing.assert_allclose(got["kernel"][at], weights["kernel"], rtol=1e-4)


@pytest.mark.parametrize(
    "algorithm", [AdamW(), Lion(), SGD(), Adafactor(), Muon(), Lamb()]
)
def test_a_balance_bias_only_takes_off_its_gradient(algorithm):
    """Whatever there is beside it, which goes on as without it, clipped by its norm."""
    config = OptimizerConfig(
        algorithm, WarmupCosine(2), 0.1, 0.2, "all", clip_norm=0.5, ema=0.9
    )
    axes = AXES | {"router": {"balance": ("L", "E_balance")}}
    shapes = SHAPES | {"router": {"balance": (3, 5)}}
    params = draw(0, shapes)
    got, state = three_updates(optimizers.make(config, STEPS, axes), params, shapes)
    start, *grads = (draw(seed, shapes)["router"]["balance"] for seed in range(4))
    moved = got.pop("router")["balance"]
    np.testing.assert_allclose(moved, start - sum(grads), rtol=1e-5)
    average = optimizers.averaged(state, None)
    assert jax.tree.map(jnp.shape, average) == shapes
    del params["router"]
    optimizer = optimizers.make(config, STEPS, AXES)
    want = params
    state = optimizer.init(params)
    for seed in (1, 2, 3):
        rest = draw(seed, shapes)
        del rest["router"]
        updates, state = optimizer.update(rest, state, want)
        want = optax.apply_updates(want, updates)
    assert_close(got, want)


@pytest.mark.parametrize("norm", [0.5, 100.0])
def test_clipping_is_by_the_norm_of_all_gradients(norm):
    config = OptimizerConfig(SGD(0.0), Constant(), 1.0, 0.0, clip_norm=norm)
    optimizer, params, grads = optimizers.make(config, STEPS, AXES), draw(0), draw(1)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    length = math.sqrt(sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(grads)))
    scale = min(1, norm / length)
    assert_close(updates, jax.tree.map(lambda g: -scale * g, grads))


@pytest.mark.parametrize("kind", [Constant, Linear, WarmupCosine])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_schedules_are_their_formulas(kind, warmup):
    """Update s of S, warm-up W: peak (s + 1) / W, then by x = (s - W) / (S - W)."""
    S, peak = 12, 0.5
    final = {} if kind is Constant else {"final": 0.2}
    config = OptimizerConfig(schedule=kind(warmup, **final), learning_rate=peak)

    def formula(s):
        if s < warmup:
            return peak * (s + 1) / warmup
        x = (s - warmup) / (S - warmup)
        if kind is Constant:
            return peak
        if kind is Linear:
            return peak * (1 - 0.8 * x)
        return peak * (0.2 + 0.8 * (1 + math.cos(math.pi * x)) / 2)

    rates = [float(optimizers.schedule(config, S)(s)) for s in range(S + 1)]
    np.testing.assert_allclose(rates, [formula(s) for s in range(S + 1)], rtol=1e-5)
    assert rates[0] > 0 and max(rates) == peak
    end = peak if kind is Constant else 0.2 * peak
    assert rates[S] == pytest.approx(end, rel=1e-5)


def test_a_warm_up_longer_than_the_run_ends_with_it():
    config = OptimizerConfig(schedule=WarmupCosine(100), learning_rate=1.0)
    rates = [float(optimizers.schedule(config, 4)(s)) for s in range(4)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1.0])


def test_the_average_is_its_recursion():
    config = OptimizerConfig(SGD(0.0), Constant(), 0.1, 0.0, clip_norm=None, ema=0.9)
    optimizer, params = optimizers.make(config, STEPS, AXES), draw(0)
    assert optimizers.averaged(optimizer.init(params), None) is not None
    _, state = three_updates(optimizer, params)
    weights = average = np.asarray(params["mlp"]["kernel"])
    for seed in (1, 2, 3):
        weights = weights - 0.1 * np.asarray(draw(seed)["mlp"]["kernel"])
        average = 0.9 * average + 0.1 * weights
    got = optimizers.averaged(state, params)["mlp"]["kernel"]
    np.testing.assert_allclose(got, average, rtol=1e-5)


def test_without_an_average_the_weights_are_their_own():
    optimizer, params = optimizers.make(OptimizerConfig(), STEPS, AXES), draw(0)
    assert optimizers.averaged(optimizer.init(params), params) is params


ALGORITHMS = [
    AdamW(),
    Adafactor(0.8, 4),
    Lion(),
    Lamb(),
    Muon(),
    ScheduleFree(),
    SGD(),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.kind)
def test_stacked_layers_are_updated_as_if_apart(algorithm):
    """Whatever factors, clips, scales or rotates a leaf does so layer by layer."""
    config = OptimizerConfig(algorithm, Constant(), 0.1, 0.1, clip_norm=None)
    stacked_axes = {
        "stack": {"kernel": ("L", "D", "F"), "scale": ("L", "D_vector")},
        "table": ("V", "D"),
    }
    stacked_shapes = {
        "stack": {"kernel": (3, 6, 8), "scale": (3, 6)},
        "table": (9, 6),
    }

    def take(tree, layer):
        return jax.tree.map(lambda x: x[layer], tree["stack"])

    optimizer = optimizers.make(config, STEPS, stacked_axes)
    params = draw(0, stacked_shapes)
    got, _ = three_updates(optimizer, params, stacked_shapes)
    layer_axes = {"kernel": ("D", "F"), "scale": ("D_vector",)}
    alone = optimizers.make(config, STEPS, layer_axes)
    for layer in range(3):
        weights = take(params, layer)
        state = alone.init(weights)
        for seed in (1, 2, 3):
            grads = take(draw(seed, stacked_shapes), layer)
            updates, state = alone.update(grads, state, weights)
            weights = optax.apply_updates(weights, updates)
        assert_close(take(got, layer), weights)
