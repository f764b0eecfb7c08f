"""Sophia and schedule-free: what they ask of a step, and what they leave."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.config import (
    Constant,
    Float16,
    LayoutConfig,
    Mixture,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleFree,
    Sophia,
    SplashAttention,
    WarmupCosine,
)
from llmjax.parallel.mesh import use
from llmjax.train.optimizers import averages, optimizers
from llmjax.train.step import make_step
from tests.train import tiny, toy

pytestmark = pytest.mark.usefixtures("quick_compile")

BATCH = tiny.data(0)
AXES = {"in": ("D", "F"), "out": ("F", "C")}
SOPHIA = OptimizerConfig(
    Sophia(0.9, 0.8, interval=2), Constant(), 0.05, 0.1, "all", clip_norm=None
)
FREE = OptimizerConfig(ScheduleFree(), Constant(3), 0.02, 0.1, "all", clip_norm=None)


def test_sophia_is_that_of_optax_given_the_mean_loss():
    batches = [tiny.data(step) for step in range(5)]
    ours = optimizers.make(SOPHIA, 5, AXES)
    got, _ = tiny.train(ours, LayoutConfig(), batches)
    theirs = optax.contrib.sophia(
        0.05, 0.9, 0.8, 1e-8, weight_decay=0.1, update_interval=2
    )
    params = tiny.start(theirs, LayoutConfig()).params
    state = theirs.init(params)
    for batch in batches:

        def mean(params, batch=batch):
            total, count, *_ = tiny.loss("float32")(params, {}, {}, batch, None)
            return total / count

        updates, state = theirs.update(
            jax.grad(mean)(params), state, params, obj_fn=mean
        )
        params = optax.apply_updates(params, updates)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    jax.tree.map(close, got.params, params)
    parts, _ = tiny.train(ours, LayoutConfig(microbatches=4), batches)
    jax.tree.map(close, parts, got)


def test_sophia_differentiates_a_transformers_loss_twice():
    """In parts on eight devices as on one."""
    optimizer = {"algorithm": Sophia(interval=1), "schedule": Constant()}
    config = toy.change(toy.CONFIG, optimizer=optimizer)
    whole = after_two(config, 1)
    layout = {"data": 2, "fsdp": 2, "tensor": 2, "microbatches": 2}
    parts = after_two(toy.change(config, layout=layout), 8)
    nu = optax.tree.get(whole.opt_state, "nu")
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(nu))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

    jax.tree.map(close, parts.params, whole.params)


def after_two(config, devices):
    program = toy.program(config, devices)
    state, batches = program.init(), toy.batches(config)
    with use(program.mesh):
        for step in range(2):
            state, _ = program.step(state, program.place(batches.batch(step)))
    return jax.device_get(state)


def test_sophia_updates_stacked_layers_as_if_apart():
    """Of a diagonal Hessian Rademacher's draws estimate exactly what it is."""
    key = jax.random.key(0)
    curvature, start = jnp.exp(jax.random.normal(key, (2, 3, 4, 5)))

    def trained(axes, curvature, weights):
        def mean(params):
            return 0.5 * jnp.sum(curvature * jnp.square(params["kernel"]))

        optimizer = optimizers.make(SOPHIA, 3, {"kernel": axes})
        params = {"kernel": weights}
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(
                jax.grad(mean)(params), state, params, obj_fn=mean
            )
            params = optax.apply_updates(params, updates)
        return params["kernel"]

    stacked = trained(("L", "D", "F"), curvature, start)
    apart = [trained(("D", "F"), c, w) for c, w in zip(curvature, start, strict=True)]
    np.testing.assert_allclose(stacked, jnp.stack(apart), rtol=1e-6)
    assert np.all(stacked != start)


def test_sophia_beside_a_bias_that_is_not_its_own():
    """The loss is a function of all weights, also of those that it does not see."""
    axes = AXES | {"router": {"balance": ("E_balance",)}}
    optimizer = optimizers.make(SOPHIA, 5, axes)
    state = tiny.start(optax.identity(), LayoutConfig())
    alone, _ = tiny.train(optimizers.make(SOPHIA, 5, AXES), LayoutConfig(), [BATCH])
    params = state.params | {"router": {"balance": jnp.ones(3)}}
    state = state.replace(params=params, opt_state=optimizer.init(params))
    loss = tiny.loss("float32")
    step = make_step(loss, optimizer, LayoutConfig(), seed=0)
    after, _ = jax.jit(step)(state, BATCH)
    np.testing.assert_array_equal(after.params["router"]["balance"], jnp.ones(3))
    np.testing.assert_allclose(after.params["in"], alone.params["in"], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": LayoutConfig(precision=Float16())}, "layout.precision.kind is"),
        ({"layout": LayoutConfig(attention=SplashAttention())}, "is 'splash'"),
        ({"model": ModelConfig(mlp=Mixture(4, 2, 8))}, "model.mlp is a mixture"),
    ],
)
def test_where_sophia_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        optimizers.check(RunConfig(optimizer=SOPHIA, **fields))


def test_schedule_free_is_its_recursion():
    """Defazio et al. 2024, algorithm 1, in numpy; weights of the squared rate."""
    rng, shape = np.random.default_rng(0), (6, 8)
    y = x = z = rng.standard_normal(shape).astype(np.float32)
    optimizer = optimizers.make(FREE, 9, {"kernel": ("D", "F")})
    params = {"kernel": jnp.asarray(y)}
    state, v, weights = optimizer.init(params), 0.0, 0.0
    for t in range(1, 7):
        grads = {"kernel": jnp.float32(rng.standard_normal(shape))}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        rate, g = 0.02 * min(1, t / 3), np.asarray(grads["kernel"])
        v = 0.95 * v + 0.05 * g * g
        step = g / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) + 0.1 * y
        z, weights = z - rate * step, weights + rate**2
        x = x + rate**2 / weights * (z - x)
        y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(params["kernel"], y, rtol=1e-4, atol=1e-6)
        average = optimizers.averaged(state, params)["kernel"]
        np.testing.assert_allclose(average, x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"ema": 0.5}, {"free": True}])
def test_the_weights_of_a_saved_state_are_those_that_were_evaluated(fields):
    """Read from dicts, as a checkpoint is, with nothing in it but what is needed."""
    config = OptimizerConfig(schedule=Constant(), ema=fields.get("ema"))
    if "free" in fields:
        config = dataclasses.replace(config, algorithm=ScheduleFree())
    axes = AXES | {"router": {"balance": ("E_balance",)}}
    optimizer = optimizers.make(config, 9, axes)
    params = tiny.start(optax.identity(), LayoutConfig()).params
    params["router"] = {"balance": jnp.ones(3)}
    state = optimizer.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    want = optimizers.averaged(state, params)
    if fields:
        assert not np.allclose(want["in"], params["in"])
    np.testing.assert_array_equal(want["router"]["balance"].shape, (3,))
    saved = {"params": params, "opt_state": as_dicts(state)}
    place = averages.place({"params": params, "opt_state": state})
    kinds = {(): "none", ("ema",): "average", ("free",): "z"}
    assert place.kind == kinds[tuple(fields)]

    def only(path, leaf):
        return leaf if place.needed(averages.key_path(path)) else "left"

    left = jax.tree_util.tree_map_with_path(only, saved)
    toy.assert_same_bits(place.weights(left), want)


def as_dicts(tree):
    if isinstance(tree, optax.MaskedNode):
        return {}
    if hasattr(tree, "_asdict"):
        return {k: as_dicts(v) for k, v in tree._asdict().items()}
    if isinstance(tree, tuple | list):
        return [as_dicts(v) for v in tree]
    if isinstance(tree, dict):
        return {k: as_dicts(v) for k, v in tree.items()}
    return tree


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": WarmupCosine()}, "set optimizer.schedule.kind='constant'"),
        ({"schedule": Constant(), "ema": 0.9}, "set optimizer.ema=None"),
    ],
)
def test_schedule_free_wants_no_decay_and_no_second_average(fields, message):
    with pytest.raises(ValueError, match=message):
        optimizers.check(RunConfig(optimizer=OptimizerConfig(ScheduleFree(), **fields)))
