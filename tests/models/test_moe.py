"""Mixtures of experts against token-by-token numpy in float64, and what they keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from llmjax import config
from llmjax.models.experts.dispatch import places
from llmjax.models.experts.mixture import (
    STATISTICS,
    MixtureOfExperts,
    RouterSums,
    choose,
    router_loss,
)
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.axes import param_axes, partition_spec, tree_shardings
from llmjax.parallel.mesh import make_mesh, use
from tests.models.test_decode import decode
from tests.models.test_packing import LENGTHS, ROWS, TEXTS, place, run

pytestmark = pytest.mark.usefixtures("quick_compile")

B, T, D = 2, 7, 16
GROUPED = config.SigmoidRouter(groups=3, top_groups=2, scale=2.5)
BIAS = config.BalanceBias()
MIXTURES = {  # and the model's biases
    "softmax": (config.Mixture(5, 2, 6), "none"),
    "not normalised, gated": (
        config.Mixture(
            4,
            3,
            6,
            5,
            config.Plain("relu"),
            config.SoftmaxRouter(normalize=False),
            shared_gate=True,
        ),
        "all",
    ),
    "grouped": (config.Mixture(6, 2, 6, 7, router=GROUPED, balance=BIAS), "none"),
    "clamped": (config.Mixture(4, 2, 6, expert=config.ClampedGated(0.5)), "mlp"),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def feed_forward(mlp, params, x, expert=None):
    """One MLP's output for one token; of a stack of kernels those of `expert`."""

    def project(name, x):
        leaves = params[name]
        if expert is not None:
            leaves = {k: v[expert] for k, v in leaves.items()}
        return x @ leaves["kernel"] + leaves.get("bias", 0)

    if isinstance(mlp, config.Plain):
        return project("down", np.maximum(project("up", x), 0))
    gate, up = project("gate", x), project("up", x)
    if isinstance(mlp, config.ClampedGated):
        gate, up = np.minimum(gate, mlp.limit), np.clip(up, -mlp.limit, mlp.limit)
        return project("down", gate * sigmoid(mlp.alpha * gate) * (up + 1))
    return project("down", gate * sigmoid(gate) * up)


def picked(mlp, choice):
    """The experts of one token, best first."""
    groups = np.arange(mlp.num_experts).reshape(getattr(mlp.router, "groups", 1), -1)
    worth = [np.sort(choice[group])[-2:].sum() for group in groups]
    kept = np.argsort(worth)[::-1][: getattr(mlp.router, "top_groups", 1)]
    allowed = [e for g in kept for e in groups[g]]
    return sorted(allowed, key=lambda e: -choice[e])[: mlp.top_k]


def reference(mlp, params, x_BTD, real_BT, capacity=np.inf, chosen=None):
    """The output, [B][T] lists of experts, and the sums; `chosen` replaces the choice.

    Every expert takes `capacity` tokens of a row: all first choices, then all second.
    """
    params, x_BTD = jax.tree.map(np.float64, (params, x_BTD))
    y_BTD, picks = np.zeros_like(x_BTD), []
    load, probability, z = np.zeros(mlp.num_experts), np.zeros(mlp.num_experts), 0.0
    for b, row in enumerate(x_BTD):
        logits = row @ params["router"]["kernel"] + params["router"].get("bias", 0)
        exp = np.exp(logits)
        soft = exp / exp.sum(-1, keepdims=True)
        is_sigmoid = isinstance(mlp.router, config.SigmoidRouter)
        scores = sigmoid(logits) if is_sigmoid else soft
        experts = [picked(mlp, s + params.get("balance", 0)) for s in scores]
        experts = experts if chosen is None else chosen[b]
        weights = [s[e] for s, e in zip(scores, experts, strict=True)]
        if mlp.router.normalize:
            weights = [w / w.sum() for w in weights]
        taken = np.zeros(mlp.num_experts)
        for choice in range(mlp.top_k):
            for t in np.flatnonzero(real_BT[b]):
                e = experts[t][choice]
                load[e] += 1
                taken[e] += 1
                if taken[e] <= capacity:
                    out = feed_forward(mlp.expert, params["experts"], row[t], e)
                    scale = getattr(mlp.router, "scale", 1.0)
                    y_BTD[b, t] += scale * weights[t][choice] * out
        for t in np.flatnonzero(real_BT[b]):
            probability += scores[t] / scores[t].sum()
            z += np.log(exp[t].sum()) ** 2
            if mlp.shared_d_ff:
                gate = 1.0
                if mlp.shared_gate:
                    own = params["shared_gate"]
                    gate = sigmoid(row[t] @ own["kernel"] + own["bias"])
                shared = feed_forward(mlp.expert, params["shared"], row[t])
                y_BTD[b, t] += gate * shared
        picks.append(experts)
    return y_BTD, picks, (load, probability, z, real_BT.sum())


@pytest.fixture
def mixture(tiny, random_params):
    """name -> (mixture, apply(params, x, **changes) -> (y, sums), params, x, real)."""
    rng = np.random.default_rng(3)
    x_BTD = rng.standard_normal((B, T, D)).astype(np.float32)
    segments_BT = jnp.array([[0, 0, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1, 0]])

    def make(name):
        mlp, biases = MIXTURES[name]
        cfg = dataclasses.replace(tiny, biases=biases)

        def module(**changes):
            changed = dataclasses.replace(mlp, **changes)
            return MixtureOfExperts(cfg, config.LayoutConfig(), changed)

        def apply(params, x_BTD, **changes):
            y_BTD, sown = module(**changes).apply(
                {"params": params}, x_BTD, segments_BT, mutable=[STATISTICS]
            )
            return y_BTD, sown[STATISTICS]["sums"]

        return (
            mlp,
            apply,
            random_params(module(), x_BTD),
            x_BTD,
            np.asarray(segments_BT) > 0,
        )

    return make


def assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_its_loop(name, mixture):
    """Dropless, with ample room, and with places for some: outputs and sums."""
    mlp, apply, params, x_BTD, real_BT = mixture(name)
    E, k = mlp.num_experts, mlp.top_k
    tight = config.Capacity(0.6)
    C = max(1, int(0.6 * T * k / E))
    assert C < T
    outputs = []
    for dispatch, capacity in (
        (config.Dropless(), np.inf),
        (config.Capacity(E / k), T),
        (tight, C),
    ):
        y_BTD, sums = jax.jit(lambda p, x, d=dispatch: apply(p, x, dispatch=d))(
            params, x_BTD
        )
        want, _, (load, probability, z, tokens) = reference(
            mlp, params, x_BTD, real_BT, capacity
        )
        assert_close(y_BTD[real_BT], want[real_BT])
        assert_close(sums.probability_E, probability)
        np.testing.assert_array_equal(sums.load_E, load)
        np.testing.assert_allclose(sums.log_normalizer, z, rtol=1e-5)
        assert sums.tokens == tokens == real_BT.sum()
        outputs.append(np.asarray(y_BTD[real_BT]))
    dropless, ample, dropped = outputs
    assert_close(ample, dropless)
    assert np.abs(dropped - dropless).max() > 0.01


def test_places_go_to_first_choices_then_by_time():
    """Two places each. Expert 0: tokens 1 and 3 (0 is padding), whose choice is first;
    expert 1: token 2 first, then of the second choices token 1; token 3 is dropped."""
    chosen = jnp.array([[[0, 1], [0, 1], [1, 0], [0, 1]]])
    real = jnp.array([[False, True, True, True]])
    place, choice = places(chosen, real, 2, 2)
    of_tokens = np.asarray(place)[0].reshape(4, 2)
    assert of_tokens.tolist() == [[4, 4], [0, 3], [2, 4], [1, 4]]  # 4: none
    token, which = np.divmod(np.asarray(choice)[0], 2)
    assert (token.tolist(), which.tolist()) == ([1, 3, 2, 1], [0, 0, 0, 1])


def test_groups_that_tie_do_not_all_enter():
    """Four groups of equal worth and two that may enter: the first two, as top k."""
    mlp = config.Mixture(8, 4, 6, router=config.SigmoidRouter(4, 2))
    score = jnp.float32([[[0.3, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3, 0.2]]])
    chosen, _ = choose(mlp, score, None)
    assert sorted(np.asarray(chosen)[0, 0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["not normalised, gated", "grouped"])
def test_gradients_are_those_at_a_fixed_choice(name, mixture):
    """Against central differences of the reference whose experts stay the same."""
    mlp, apply, params, x_BTD, real_BT = mixture(name)
    rng = np.random.default_rng(5)
    up_BTD = rng.standard_normal(x_BTD.shape) * real_BT[..., None]
    _, chosen, _ = reference(mlp, params, x_BTD, real_BT)
    grads = jax.jit(
        jax.grad(lambda p, x: jnp.sum(apply(p, x)[0] * up_BTD), argnums=(0, 1))
    )(params, x_BTD)
    if "balance" in params:
        assert not np.any(grads[0]["balance"])
    for key in ("router", None):  # the router alone, and everything

        def direction(path, leaf, key=key):
            moves = key is None or any(getattr(p, "key", None) == key for p in path)
            return rng.standard_normal(leaf.shape) * moves

        towards = jax.tree_util.tree_map_with_path(direction, (params, x_BTD))

        def value(size, towards=towards):
            moved = jax.tree.map(
                lambda at, move: np.float64(at) + move,
                (params, x_BTD),
                jax.tree.map(lambda move: size * move, towards),
            )
            return np.sum(reference(mlp, *moved, real_BT, chosen=chosen)[0] * up_BTD)

        want = (value(1e-5) - value(-1e-5)) / 2e-5
        along = jax.tree.map(lambda g, move: np.sum(move * g), grads, towards)
        got = sum(jax.tree.leaves(along))
        assert got == pytest.approx(want, rel=1e-5) and abs(want) > 0.1


SUMS = RouterSums(  # 4 tokens of 2 choices each among 4 experts: 2 is a fair load
    load_E=jnp.float32([4, 2, 2, 0]),
    probability_E=jnp.float32([1.6, 1.2, 0.8, 0.4]),
    log_normalizer=jnp.float32(10.0),
    tokens=jnp.int32(4),
    balance_E=jnp.float32([0.5, 0.0, -1.0, 2.0]),
)


def test_the_balance_and_z_losses_of_a_hand_made_count():
    """4 (.5 .4 + .25 .3 + .25 .2 + 0 .1) = 1.3; z: 10 / 4; a load has no gradient."""
    mlp = config.Mixture(4, 2, 6, balance=config.BalanceLoss(0.1), z_loss=0.01)
    loss = 0.1 * 1.3 + 0.01 * 2.5
    assert router_loss(mlp, SUMS) == pytest.approx(loss, rel=1e-6)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), SUMS)
    np.testing.assert_allclose(router_loss(mlp, two), [loss, loss], rtol=1e-6)
    grads = jax.grad(lambda s: router_loss(mlp, s), allow_int=True)(SUMS)
    # 0.1 E share / tokens
    np.testing.assert_allclose(
        grads.probability_E, np.array([0.5, 0.25, 0.25, 0]) * 0.1, rtol=1e-6
    )
    assert not np.any(grads.load_E)
    assert grads.log_normalizer == pytest.approx(0.01 / 4)


def test_a_balance_bias_gives_no_value_and_a_sign():
    """The overloaded expert goes down (its gradient is +), the idle one up."""
    mlp = config.Mixture(4, 2, 6, balance=config.BalanceBias(0.25), z_loss=0.01)
    value, grad = jax.value_and_grad(
        lambda b: router_loss(mlp, SUMS.replace(balance_E=b))
    )(SUMS.balance_E)
    assert value == pytest.approx(0.025)
    np.testing.assert_array_equal(grad, [0.25, 0, 0, -0.25])


SPREAD = {
    "experts, D and F": config.LayoutConfig(data=1, fsdp=2, expert=2, tensor=2),
    "an expert each, and T": config.LayoutConfig(data=1, expert=4, sequence=2),
}


@pytest.fixture(scope="module", params=["dropless", "capacity"])
def on_one(request, tiny, random_params):
    """A mixture of all that may be, on one device: (step, params, x, its results)."""
    dispatch = (
        config.Dropless() if request.param == "dropless" else config.Capacity(1.0)
    )
    mlp = config.Mixture(
        4, 2, 6, 8, balance=config.BalanceLoss(1.0), dispatch=dispatch, z_loss=0.1
    )
    cfg = dataclasses.replace(tiny, biases="all")
    module = MixtureOfExperts(cfg, config.LayoutConfig(), mlp)
    x_BTD = np.random.default_rng(0).standard_normal((8, 4, D)).astype(np.float32)
    segments_BT = jnp.ones((8, 4), int).at[2, 3:].set(0)

    def loss(params, x_BTD):
        y_BTD, sown = module.apply(
            {"params": params}, x_BTD, segments_BT, mutable=[STATISTICS]
        )
        routing = router_loss(mlp, sown[STATISTICS]["sums"])
        return jnp.sum(jnp.sin(y_BTD)) + routing, (routing, y_BTD)

    step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    axes = param_axes(module, x_BTD)[1]
    params = random_params(module, x_BTD)
    return step, params, axes, x_BTD, jax.jit(step)(params, x_BTD)


@pytest.mark.parametrize("name", SPREAD)
def test_eight_devices_are_one(name, on_one):
    """Outputs, gradients and the loss of global sums; tokens go by all-to-all."""
    step, params, axes, x_BTD, ((want, (routing, y_BTD)), want_grads) = on_one
    mesh = make_mesh(SPREAD[name])
    rows = NamedSharding(mesh, partition_spec(("act_B", "act_T", "act_D"), "x"))
    with use(mesh):
        params = jax.device_put(params, tree_shardings(params, axes, mesh))
        x_BTD = jax.device_put(x_BTD, rows)
        run = jax.jit(step).lower(params, x_BTD).compile()
        (got, (got_routing, got_y_BTD)), grads = run(params, x_BTD)
    assert {s.data.shape[0] for s in experts_up(params)} == {4 // mesh.shape["expert"]}
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(got_routing, routing, rtol=1e-5)
    assert_close(got_y_BTD, y_BTD)
    jax.tree.map(assert_close, grads, want_grads)
    assert "all-to-all(" in run.as_text()


def experts_up(params):
    return params["experts"]["up"]["kernel"].addressable_shards


def decoder(tiny, dispatch):
    """A dense layer and two mixtures, with all that a mixture may have."""
    mlp = config.Mixture(
        6, 2, 6, 7, router=GROUPED, balance=config.BalanceBias(), dispatch=dispatch
    )
    groups = (config.Group(1), config.Group(2, (config.LayerSpec(mlp=mlp),)))
    return dataclasses.replace(tiny, groups=groups)


def test_cached_decode_is_the_full_forward(tiny, random_params):
    cfg = decoder(tiny, config.Dropless())
    model = LanguageModel(cfg)
    rng = np.random.default_rng(0)
    segments = jnp.array([[1] * 8, [0, 0] + [1] * 6])
    positions = jnp.maximum(jnp.arange(8) - jnp.array([[0], [2]]), 0)
    batch = {
        "tokens": jnp.asarray(rng.integers(40, size=(2, 8))),
        "segment_ids": segments,
        "positions": positions,
    }
    params = random_params(model, batch)
    want, _ = jax.jit(model.apply)({"params": params}, batch)
    got = decode(model, params, batch, (4, 1, 1, 1, 1))
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(
        got[real], want[real], rtol=0, atol=1e-5 * np.abs(want).max()
    )


@pytest.mark.parametrize("dispatch", [config.Dropless(), config.Capacity(3.0)])
def test_packed_is_unpacked(dispatch, tiny, random_params):
    """Also with a capacity, as long as it has room (here 6 / 2) for a whole row."""
    cfg = decoder(tiny, dispatch)
    alone = place([(i,) for i in range(len(TEXTS))], max(LENGTHS))
    params = random_params(LanguageModel(cfg), alone[0])
    layout = config.LayoutConfig()
    want = run(cfg, layout, params, *alone)
    got = run(cfg, layout, params, *place(ROWS, 12))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
