"""The circular schedule, a toy pipeline, and whole models through one."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import FullRemat, LayoutConfig, Pipeline
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.splash import splash_attention
from llmjax.models.context import Context
from llmjax.models.remat import differentiated_once
from llmjax.models.stages import through_stages
from llmjax.parallel import pipeline, ring
from llmjax.parallel.mesh import make_mesh, use
from llmjax.parallel.pipeline import CircularSchedule
from tests.parallel import pipelined
from tests.train import toy as toy_run

pytestmark = pytest.mark.usefixtures("quick_compile")
WIDTH = 5
SIZES = [(2, 2, 1), (2, 4, 2), (3, 6, 2), (4, 4, 1), (4, 8, 2), (4, 4, 3)]


@pytest.mark.parametrize(("P", "M", "R"), SIZES)
def test_each_stage_follows_the_one_before_it(P, M, R):
    """A stage of a microbatch starts, a device further, when the last has ended."""
    plan = CircularSchedule(P, M, R)
    when = {}
    for time in range(plan.times):
        for device in range(P):
            busy, turn, microbatch = plan.work(device, time)
            if busy:
                assert (turn * P + device, microbatch) not in when
                when[turn * P + device, microbatch] = time
    assert len(when) == P * R * M
    for (stage, microbatch), time in when.items():
        assert stage == 0 or when[stage - 1, microbatch] == time - 1


@pytest.mark.parametrize(("P", "M", "R"), SIZES)
def test_the_bubble_is_the_idle_slots(P, M, R):
    plan = CircularSchedule(P, M, R)
    slots = [plan.work(d, t)[0] for d in range(P) for t in range(plan.times)]
    assert pipeline.bubble_share(P, M, R) == pytest.approx(1 - np.mean(slots))


@pytest.mark.parametrize(("P", "R"), [(2, 2), (2, 3), (4, 2), (4, 4), (4, 6), (8, 3)])
def test_stages_are_moved_by_permutations(P, R):
    """From contiguous shares to who computes them, one per device and move."""
    got = np.array(ring.moves(P, R))
    assert (np.sort(got.ravel()) == np.arange(P * R)).all()
    assert (got % P == np.arange(P)).all()
    for move in got:
        assert sorted(move // R) == list(range(P))


def toy(P, R, M, remat=False, **axes):
    """Value and gradients of layers that don't commute, pipelined and not."""
    layers, rows = 2 * P * R, 16
    rng = np.random.default_rng(0)
    weights = 0.4 * rng.standard_normal((layers, WIDTH, WIDTH)).astype(np.float32)
    shift, x = np.float32(0.3), rng.standard_normal((rows, WIDTH)).astype(np.float32)
    beside = [jnp.arange(rows, dtype=jnp.float32)]

    def layer(x, w, shift, beside):
        return jnp.sin(x @ w) + shift * x + 0.1 * beside[0][:, None]

    def stage(weights, shared, x, beside, number, microbatch):
        def body(x, inputs):
            w, i = inputs
            sums = {"rows": 1.0 * len(x), "layer": len(x) * (2.0 * number + i)}
            return layer(x, w, shared, beside), sums

        return jax.lax.scan(body, x, (weights, jnp.arange(2)))

    def piped(weights, shift, x):
        plan = CircularSchedule(P, M, R, remat)
        y, sums = pipeline.circulate(stage, weights, shift, x, beside, plan)
        return jnp.sum(y**2 * jnp.arange(rows)[:, None]), sums

    def plain(weights, shift, x):
        for w in weights:
            x = layer(x, w, shift, beside)
        return jnp.sum(x**2 * jnp.arange(rows)[:, None])

    arguments = weights, shift, x
    want = jax.jit(jax.value_and_grad(plain, (0, 1, 2)))(*arguments)
    with use(make_mesh(LayoutConfig(pipeline=Pipeline(P), **axes))):
        f = jax.jit(jax.value_and_grad(piped, (0, 1, 2), has_aux=True))
        program = f.lower(*arguments).compile()
        (value, sums), gradients = program(*arguments)
    return (value, gradients), want, sums, program.as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("P", "R", "M", "axes"),
    [
        (2, 1, 2, {"data": 4}),
        (2, 2, 4, {"data": 1, "fsdp": 2, "tensor": 2}),
        (4, 1, 8, {"data": 2, "remat": True}),
        (4, 2, 4, {"data": 1, "expert": 2}),
        (4, 2, 8, {"data": 1, "expert": 2, "remat": True}),
    ],
)
def test_a_toy_is_the_loop_over_its_layers(P, R, M, axes):
    """And what goes from device to device is no weight, unless it must for a round."""
    got, want, sums, text = toy(P, R, M, **axes)
    assert pipelined.error(got, want) < 1e-5
    layers = np.arange(2 * P * R)
    np.testing.assert_array_equal(sums["rows"], np.full(len(layers), 16.0))
    np.testing.assert_array_equal(sums["layer"], 16.0 * layers)
    sent = re.findall(
        r"\[([\d,]*)\]\S* (all-gather|all-to-all|collective-permute)", text
    )
    assert "collective-permute" in {kind for _, kind in sent}
    weights = {kind for shape, kind in sent if shape.endswith(f"{WIDTH},{WIDTH}")}
    assert weights == ({"collective-permute"} if R > 1 else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (
            "decoder",
            {
                "fsdp": 2,
                "tensor": 2,
                "remat": FullRemat(),
                "pipeline": Pipeline(2, microbatches=4),
            },
        ),
        (
            "encoder-decoder mixture",
            {"data": 2, "expert": 2, "pipeline": Pipeline(2, recompute=True)},
        ),
    ],
)
def test_a_model_is_the_plain_one(name, layout):
    program, arguments = pipelined.compiled(
        name, 2, **{"data": 1, "pipeline": Pipeline(2)} | layout
    )
    got, want = program(*arguments), pipelined.plain(name, 2)
    assert pipelined.error(got, want) < 1e-5


@pytest.mark.parametrize("R", [1, 2])
def test_recomputed_stages_hold_their_inputs_and_one_sum_of_gradients(R):
    """Of each microbatch and round one input, and never a gradient beside its sum."""
    P, M, layers, width, rows = 4, 16, 8, 128, 4

    def stage(weights, shared, x, beside, number, microbatch):
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, weights)[0], {}

    def temporaries(recompute):
        plan = CircularSchedule(P, M, R, recompute)

        def value(weights, x):
            return jnp.sum(pipeline.circulate(stage, weights, None, x, [], plan)[0])

        weights = jax.ShapeDtypeStruct((layers * P, width, width), jnp.float32)
        x = jax.ShapeDtypeStruct((M * rows, width), jnp.float32)
        mesh = make_mesh(LayoutConfig(pipeline=Pipeline(P), data=1), jax.devices()[:P])
        with use(mesh):
            program = jax.jit(jax.value_and_grad(value)).lower(weights, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    microbatch, of_weights = 4 * rows * width, 4 * layers * width**2
    inputs = (R * M + layers // R) * microbatch
    # the sum is a result; of R rounds, weights and gradients are moved to their devices
    beside = 24 * microbatch + {1: 0.5, 2: 4}[R] * of_weights
    assert temporaries(True) < inputs + beside < temporaries(False)


def test_a_recomputed_stage_is_differentiated_twice():
    """Forward over backward, as Sophia does, also where its layers own a derivative."""
    P, layers, width, rows = 2, 2, 4, 8
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((layers * P, width, width)).astype(np.float32)
    x = jnp.asarray(rng.standard_normal((rows, width)), jnp.float32)

    def stage(weights, shared, x, beside, number, microbatch):
        def layer(x, w):
            return jnp.sin(differentiated_once(x) @ w), None

        return jax.lax.scan(layer, x, weights)[0], {}

    def curvature(recompute):
        plan = CircularSchedule(P, 4, recompute=recompute)

        def value(weights):
            return jnp.sum(pipeline.circulate(stage, weights, None, x, [], plan)[0])

        return jax.jit(lambda w: jax.jvp(jax.grad(value), (w,), (w,))[1])(weights)

    with use(make_mesh(LayoutConfig(pipeline=Pipeline(P), data=1), jax.devices()[:P])):
        assert pipelined.error(curvature(True), curvature(False)) < 1e-6


def test_a_kernel_that_is_manual_itself_traces_within_a_stage():
    def stage(weights, shared, x, beside, number, microbatch):
        return splash_attention(x, x, x, Mask(causal=True)), {}

    def piped(weights, x):
        plan = CircularSchedule(2, 2)
        return pipeline.circulate(stage, weights, None, x, [], plan)[0]

    x = jax.ShapeDtypeStruct((8, 128, 2, 128), jnp.float32)
    layout = LayoutConfig(pipeline=Pipeline(2), data=1, fsdp=2, tensor=2)
    with use(make_mesh(layout)):
        assert jax.eval_shape(piped, jnp.zeros((2, 1)), x) == x


class Noise(nn.Module):
    """Takes a dropout's mask [rows, T] as the last of the channels, x [rows, T, L]."""

    @nn.compact
    def __call__(self, carry, layer, context, slot):
        x, _ = carry
        new = nn.Dropout(0.5, deterministic=False)(jnp.ones((*x.shape[:2], 1)))
        return (jnp.concatenate([x[..., 1:], new], axis=-1), None), None


def test_dropout_differs_in_every_layer_and_microbatch():
    B, T, L = 8, 32, 4
    scan = nn.scan(
        Noise,
        split_rngs={"dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=2,
    )
    with use(make_mesh(LayoutConfig(pipeline=Pipeline(2), data=1), jax.devices()[:2])):
        x, _ = jax.jit(
            lambda key: through_stages(
                scan(parent=None),
                {},
                jnp.zeros((B, T, L)),
                Context(Mask(), jnp.zeros((B, T), int)),
                CircularSchedule(2, 4),
                layers=2,
                shared=False,
                key=key,
            )
        )(jax.random.key(0))
    masks = np.moveaxis(np.asarray(x), 2, 0).reshape(L * B, T)
    assert len(np.unique(masks, axis=0)) == L * B


class Dropped(nn.Module):
    """Its input, dropped out."""

    @nn.compact
    def __call__(self, carry, layer, context, slot):
        return (nn.Dropout(0.5, deterministic=False)(carry[0]), None), None


def test_a_stage_that_is_computed_again_drops_the_same():
    """What gets through all layers is the gradient of its sum, in either pass."""
    B, T, D = 8, 32, 8
    scan = nn.scan(
        Dropped,
        split_rngs={"dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=2,
    )

    def total(x, key):
        out, _ = through_stages(
            scan(parent=None),
            {},
            x,
            Context(Mask(), jnp.zeros((B, T), int)),
            CircularSchedule(2, 4, recompute=True),
            layers=2,
            shared=False,
            key=key,
        )
        return jnp.sum(out), out

    x = jnp.ones((B, T, D))
    with use(make_mesh(LayoutConfig(pipeline=Pipeline(2), data=1), jax.devices()[:2])):
        gradient, out = jax.jit(jax.grad(total, has_aux=True))(x, jax.random.key(0))
    assert 0 < jnp.mean(out > 0) < 0.2
    np.testing.assert_array_equal(gradient, out)


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        ({"num_layers": 3}, {}, r"3 repeats .*model.num_layers.*multiple of 2"),
        (
            {},
            {"pipeline": Pipeline(2, rounds=2)},
            r"layout.pipeline.rounds=2.*a multiple of 4",
        ),
        (
            {},
            {"pipeline": Pipeline(2, microbatches=3)},
            r"pipeline.microbatches=3 .* make it 4$",
        ),
        (
            {},
            {"pipeline": Pipeline(2, microbatches=4), "data": 4},
            r"batch of 8 rows .* of 16",
        ),
    ],
)
def test_what_does_not_divide_is_said_before_tracing(model, layout, message):
    layout = {"pipeline": Pipeline(2), "data": 1} | layout
    config = toy_run.change(toy_run.CONFIG, model=model, layout=layout)
    with pytest.raises(ValueError, match=message):
        toy_run.program(config, 2 * layout["data"])
