"""Rates by layer, gradual unfreezing and decay to the start, against their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.config import (
    SGD,
    AdamW,
    Checkpoint,
    Constant,
    Group,
    LayerSpec,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleFree,
    TrainConfig,
)
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.parallel.axes import param_axes
from llmjax.train.optimizers import layers, optimizers

SIZES = {"vocab_size": 8, "d_model": 4, "d_ff": 4, "num_heads": 2}
# layers 0, 1 (a pattern of two), 2, 3 (its repeat), 4
GROUPS = (Group(2, (LayerSpec(), LayerSpec())), Group(1))
MODEL = ModelConfig(**SIZES, groups=GROUPS)
BATCH = {"tokens": np.zeros((1, 3), np.int32)}
SHARED = dataclasses.replace(MODEL, groups=(Group(2, shared=True),))
START = Checkpoint("runs/pretrain")


@pytest.fixture(scope="module")
def weights():
    """Shapes by name, as arrays of ones, and axes."""
    shapes, axes = param_axes(SequenceClassifier(MODEL, 3), BATCH)
    return jax.tree.map(lambda x: jnp.ones(x.shape), shapes), axes


def sgd(rate=0.5, **fields):
    plain = {"learning_rate": rate, "weight_decay": 0.0, "clip_norm": None}
    return OptimizerConfig(SGD(0.0), Constant(), **plain | fields)


def named(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_each_layer_has_its_stated_rate(weights):
    """With 5 layers: 0.5 * 0.8**n, n from 0 at the head to 6 at the embeddings."""
    params, axes = weights
    optimizer = optimizers.make(sgd(layer_decay=0.8), 10, axes, MODEL)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    below = {"group_0/layer_0": [5, 3], "group_0/layer_1": [4, 2], "group_1": [1]}
    met = set()
    for name, update in named(updates).items():
        if group := next((g for g in below if f"/stack/{g}/" in name), None):
            expected = np.array(below[group])
            update = update.reshape(len(expected), -1)[:, 0]
        else:
            expected, group = (6, "table") if "embedder" in name else (0, "head")
        met.add(group)
        np.testing.assert_allclose(update, -0.5 * 0.8**expected, rtol=1e-6)
    assert met == {*below, "table", "head"}


def test_an_encoder_lies_below_its_decoder():
    model = ModelConfig(
        **SIZES,
        architecture="encoder_decoder",
        num_layers=2,
        encoder_groups=(Group(3),),
    )
    place = ("L", "D")
    axes = {
        "transformer": {
            "embedder": {"table": ("V", "D")},
            "encoder": {
                "group_0": {"layer_0": {"kernel": place}},
                "final_norm": ("D",),
            },
            "stack": {"group_0": {"layer_0": {"kernel": place}}, "final_norm": ("D",)},
        }
    }
    below = {
        name.removeprefix("transformer/"): distance.tolist()
        for name, distance in layers.distances(axes, model).items()
    }
    assert below == {
        "embedder/table": 6,
        "encoder/group_0/layer_0/kernel": [5, 4, 3],
        "encoder/final_norm": 3,
        "stack/group_0/layer_0/kernel": [2, 1],
        "stack/final_norm": 0,
    }


def test_frozen_layers_keep_their_bits_until_their_time(weights):
    """Update k trains those up to k // 2 layers below the head; Adam meanwhile counts
    moments, so that no weight starts with a leap."""
    params, axes = weights
    config = dataclasses.replace(
        sgd(), algorithm=AdamW(), unfreeze_every=2, weight_decay=0.1
    )
    optimizer = optimizers.make(config, 14, axes, MODEL)
    below = layers.distances(axes, MODEL)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for k in range(14):
        grads = jax.tree.map(lambda p, k=k: p * (k + 1), params)
        updates, state = update(grads, state, params)
        new = optax.apply_updates(params, updates)
        after = named(new)
        for name, before in named(params).items():
            distance = below[name].reshape(-1)
            rows = (
                before.reshape(len(distance), -1),
                after[name].reshape(len(distance), -1),
            )
            for n, one, other in zip(distance, *rows, strict=True):
                same = one.tobytes() == other.tobytes()
                assert same == (k < 2 * n), (name, n, k)
                assert np.abs(other - one).max() < 0.8  # a rate of 0.5, and decay
        params = new


def test_matrices_go_back_to_the_first_ones_and_no_head(weights):
    params, axes = weights
    config = sgd(rate=0.1, start_decay=0.3)
    optimizer = optimizers.make(config, 10, axes, MODEL)
    state = optimizer.init(params)
    moved = jax.tree.map(lambda p: p + 2.0, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = optimizer.update(zeros, state, moved)
    for name, update in named(updates).items():
        body = "transformer" in name and not ("norm" in name or "bias" in name)
        np.testing.assert_allclose(update, -0.1 * 0.3 * 2.0 * body, rtol=1e-6)
    again, _ = optimizer.update(zeros, state, params)
    assert not any(update.any() for update in named(again).values())


def run(steps=100, model=MODEL, init=START, **fields):
    return RunConfig(
        model=model,
        optimizer=OptimizerConfig(**fields),
        train=TrainConfig(steps=steps),
        init=init,
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: run(unfreeze_every=20),
            r"from update 120 on, .*steps=100.* lower it to 16",
        ),
        (
            lambda: run(
                unfreeze_every=2, algorithm=ScheduleFree(), schedule=Constant()
            ),
            "'schedule_free' moves its averages",
        ),
        (
            lambda: run(model=SHARED, layer_decay=0.9),
            r"layer_decay=0.9 tells layers apart, .* share their weights",
        ),
        (
            lambda: run(init=RunConfig().init, start_decay=0.1),
            r"start_decay=0.1 leads back .* give init.path",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        optimizers.check(make())


def test_rates_of_layers_that_are_all_frozen_are_refused():
    axes = {"classifier": {"kernel": ("D", "C")}}
    with pytest.raises(ValueError, match="tell layers apart, and all of them are froz"):
        optimizers.make(sgd(layer_decay=0.8), 10, axes, MODEL)
