"""Each method on one matrix: peft's numbers, kernels of all forms, what can't be."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.config import (
    C3A,
    HRA,
    IA3,
    OFT,
    AdaLoRA,
    DeLoRA,
    HiRA,
    LoHa,
    LoKr,
    LoRA,
    MiSS,
    PiSSA,
    RoAd,
    SHiRA,
    VeRA,
)
from llmjax.hub.adapters.format import PREFIX, Adapter
from llmjax.hub.adapters.formats import FORMATS, KINDS
from llmjax.models.layers import Projection
from llmjax.peft import adapted, allocation
from llmjax.peft.matrix import Size
from tests.parity import adapter_layers

LAYERS = adapter_layers.read()


def source(config, tensors):
    """A folder of peft's in memory, whose names have a prefix or not."""
    named = {k.removeprefix(PREFIX): v for k, v in tensors.items()}
    return types.SimpleNamespace(
        fields=config,
        take=lambda path, suffix: named.get(f"{path}.{suffix}"),
        tensor=tensors.__getitem__,
    )


@pytest.mark.parametrize("name", LAYERS)
def test_equals_peft(name):
    """Results, gradients, the merged matrix; and it is written as it was read."""
    layer = LAYERS[name]
    format_ = KINDS[layer.config["peft_type"]]
    peft = format_.parsed(layer.config)
    size = Size(*layer.kernel.shape, "proj")
    adapter = Adapter(size, lambda: layer.kernel, {})
    weights = format_.read(peft, adapter, source(layer.config, layer.tensors))
    rule = adapted.method(peft)
    shapes = {k: spec.shape(size) for k, spec in rule.specs(size).items()}
    assert {k: x.shape for k, x in weights.items()} == shapes
    fixed = {k: jnp.asarray(weights[k]) for k in rule.fixed}
    own = {k: jnp.asarray(v) for k, v in weights.items() if k not in fixed}
    x, kernel, bias = map(jnp.asarray, (layer.x, layer.kernel, layer.bias))

    @jax.jit
    def both(own):
        def result(own):
            w = own | fixed
            return rule.after(x, rule.before(x, w) @ kernel + bias, kernel, w)

        y, pull = jax.vjp(result, own)
        w = own | fixed
        merged = x @ rule.matrix(kernel, w) + rule.vector(bias, w)
        return y, merged, pull(jnp.asarray(adapter_layers.cotangent()))[0]

    y, merged, gradient = both(own)
    largest = np.abs(layer.y).max()
    np.testing.assert_allclose(y, layer.y, atol=3e-6 * largest)
    np.testing.assert_allclose(merged, layer.y, atol=3e-6 * largest)
    theirs = format_.read(peft, adapter, source(layer.config, layer.gradients))
    for key, value in gradient.items():
        scale = max(np.abs(theirs[key]).max(), 1e-3)
        np.testing.assert_allclose(value, theirs[key], atol=5e-6 * scale, err_msg=key)
    whole = dataclasses.replace(adapter, weights=weights)
    tensors, fields = format_.written(peft, [whole])
    assert format_.parsed(fields) == peft
    assert {k.removeprefix(PREFIX) for k in tensors} == {
        k.removeprefix(PREFIX) for k in layer.tensors
    }
    again = format_.read(peft, adapter, source(fields, tensors))
    for key, value in weights.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-6, err_msg=key)


METHODS = [
    LoRA(rank=2),
    LoRA(rank=2, magnitude=True),
    PiSSA(rank=2),
    AdaLoRA(rank=4, target_rank=2),
    VeRA(rank=5),
    MiSS(rank=5),
    MiSS(rank=4, variant="bat"),
    OFT(block_size=4),
    HRA(rank=4),
    HiRA(rank=3),
    SHiRA(rank=2),
    LoHa(rank=2),
    LoKr(rank=1),
    DeLoRA(rank=3),
    RoAd(group_size=4),
    C3A(block_size=4),
    IA3(outputs=("proj",), inputs=("other",)),
]


class Heads(nn.Module):
    """A matrix whose inputs are heads, and one for each of three experts."""

    @nn.compact
    def __call__(self, x):
        shape, axes = (2, 8, 12), ("N", "H", "D")
        y = Projection("BTNH,NHD->BTD", shape, axes, 0.3, 1, name="proj")(x)
        shape, axes = (3, 12, 16), ("E", "D", "F")
        experts = Projection("EBD,EDF->EBF", shape, axes, 0.3, 0, name="experts")
        with nn.intercept_methods(record):
            kernel = experts()
        return y, jnp.einsum("BTD,EDF->BETF", y, kernel)


FOUND = {}


def record(call, args, kwargs, context):
    """Keeps the projections that a model calls."""
    if isinstance(context.module, Projection):
        FOUND[context.module.name] = context.module
    return call(*args, **kwargs)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("peft", METHODS, ids=lambda peft: peft.kind)
def test_heads_and_experts_begin_at_the_base_and_merge(peft):
    both = {"targets": ("proj", "experts")}
    if isinstance(peft, IA3):
        both = {"outputs": ("proj", "experts")}
    rule = adapted.method(dataclasses.replace(peft, **both))
    model = Heads()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2, 8)))
    intercept = adapted._interceptor(rule)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    rng, scope = np.random.default_rng(1), f"kernel_{rule.name}"

    def applied(params):
        with nn.intercept_methods(intercept):
            return model.apply({"params": params}, x)

    @jax.jit
    def run(noise):
        with nn.intercept_methods(intercept):  # a generator that compiles at once
            fresh = model.init(jax.random.key(0, impl="unsafe_rbg"), x)["params"]
        fresh = flatten_dict(nn.unbox(fresh), sep="/")
        fresh["proj/bias"] = jnp.arange(12.0)
        ours = {k: v + noise[k] if k in noise else v for k, v in fresh.items()}
        bare = {k: v for k, v in fresh.items() if scope not in k}
        merged = {}
        for k in ("proj", "experts"):
            prefix = f"{k}/{scope}/"
            own = {n.removeprefix(prefix): v for n, v in ours.items() if prefix in n}
            kernel, bias = bare[f"{k}/kernel"], bare.get(f"{k}/bias")
            merged[f"{k}/kernel"], bias = rule.merged(FOUND[k], kernel, bias, own)
            if bias is not None:
                merged[f"{k}/bias"] = bias
        plain = [model.apply({"params": nested(tree)}, x) for tree in (bare, merged)]
        return *plain, applied(nested(fresh)), applied(nested(ours))

    with nn.intercept_methods(intercept):
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"]
    noise = {
        k: 0.3 * rng.normal(size=v.shape).astype(np.float32)
        for k, v in flatten_dict(nn.unbox(shapes), sep="/").items()
        if scope in k and k.rpartition("/")[2] not in rule.fixed
    }
    base, merged, began, ours = run(noise)
    for k in range(2):
        size = np.abs(base[k]).max()
        np.testing.assert_allclose(began[k], base[k], atol=1e-6 * size)
        np.testing.assert_allclose(ours[k], merged[k], atol=1e-5 * size)
        assert np.abs(ours[k] - base[k]).max() > 1e-2 * size


def nested(tree):
    return unflatten_dict(tree, sep="/")


WHERE = Size(12, 18, "attention/query")


@pytest.mark.parametrize(
    ("peft", "says"),
    [
        (AdaLoRA(rank=13), "rank=13 is more than .* 12 × 18; set it to 12"),
        (HiRA(rank=13), "rank=13 is more than the rank of attention/query"),
        (LoHa(rank=13), "rank=13 is more than the rank of attention/query"),
        (DeLoRA(rank=13), "rank=13 is more than the rank of attention/query"),
        (HRA(rank=14), "rank=14 is more than the 12 inputs of attention/query"),
        (MiSS(rank=13), "rank=13 is more than the 12 inputs"),
        (SHiRA(rank=8), "trains 240 entries of .*, which has 216; set it to 7"),
        (OFT(block_size=5), "block_size=5 does not divide the 12 inputs.*: 3, 4, 6"),
        (OFT(block_size=1), "block_size=1 leaves nothing to turn"),
        (C3A(block_size=4), "block_size=4 does not divide the 18 outputs"),
        (RoAd(group_size=4), "group_size=4 does not divide the 18 outputs"),
        (MiSS(rank=4, variant="bat"), "rank=4 does not divide the 18 outputs"),
        (MiSS(variant="mini", width=4, rank=2), "width=4 does not divide"),
    ],
)
def test_what_a_matrix_cannot_have_is_said(peft, says):
    with pytest.raises(ValueError, match=says):
        adapted.method(peft).specs(WHERE)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HRA(rank=3), "rank=3 is odd.*set it to 4"),
        (lambda: AdaLoRA(rank=4, target_rank=4), "target_rank=4 is not below rank=4"),
        (lambda: RoAd(group_size=3), "group_size=3 is odd"),
        (lambda: OFT(terms=2), "terms=2 leaves no rotation"),
        (lambda: MiSS(variant="bat", dropout=0.1), "dropout=0.1 and variant='bat'"),
        (lambda: VeRA(rank=0), "rank is 0"),
        (lambda: SHiRA(targets=()), "choose no matrix"),
    ],
)
def test_configs_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_random_factors_of_sizes_are_corners_of_one():
    rule = adapted.method(VeRA(rank=3))
    small, large = (rule.specs(Size(*size)) for size in ((4, 5), (6, 9)))
    draw = lambda spec, shape: np.asarray(spec.init(None, shape))  # noqa: E731
    a = draw(small["a"], (4, 3)), draw(large["a"], (6, 3))
    np.testing.assert_allclose(a[0] * 4**0.5, a[1][:4] * 6**0.5, rtol=1e-6)
    b = draw(small["b"], (2, 3, 5)), draw(large["b"], (3, 9))
    np.testing.assert_array_equal(b[0], np.stack([b[1][:, :5]] * 2))


@pytest.mark.parametrize("start", ["svd", "qr"])
def test_a_start_from_the_base_is_its_part(start):
    """The products of numpy's factors; in peft's file twice the rank says the same."""
    peft, scale = PiSSA(rank=3, alpha=6.0, start=start), 2.0
    kernel = adapter_layers.weight("kernel", 12, 18)
    rule, size = adapted.method(peft), Size(12, 18, "proj")
    w = {k: np.asarray(v) for k, v in rule.begun(jnp.asarray(kernel)).items()}
    if start == "svd":
        u, s, v = np.linalg.svd(kernel, full_matrices=False)
        part = (u[:, :3] * s[:3]) @ v[:3]
        lengths = np.square(w["a"]).sum(0), np.square(w["b"]).sum(1)
        np.testing.assert_allclose(lengths, [s[:3] / scale] * 2, rtol=1e-5)
    else:
        q, r = np.linalg.qr(kernel.T)
        part = scale * (q[:, :3] @ r[:3]).T
    np.testing.assert_allclose(scale * w["a"] @ w["b"], part, atol=1e-5)
    moved = w | {"a": w["a"] + 0.1, "b": w["b"] - 0.2}
    adapter = Adapter(size, lambda: kernel, moved)
    tensors, fields = FORMATS[PiSSA].written(peft, [adapter])
    a, b = (tensors[f"{PREFIX}proj.lora_{x}.weight"] for x in "AB")
    assert fields["r"] == len(a) == 6
    theirs = kernel + fields["lora_alpha"] / fields["r"] * (b @ a).T
    ours = rule.matrix(jnp.asarray(kernel), jax.tree.map(jnp.asarray, moved))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# --- AdaLoRA's ranks -----------------------------------------------------------------


@functools.cache
def allocated():
    """Each e after each step of the run that peft made too, and the last state."""
    settings = adapter_layers.ALLOCATION
    peft = AdaLoRA(
        rank=settings["init_r"],
        target_rank=settings["target_r"],
        alpha=float(settings["lora_alpha"]),
        initial_steps=settings["tinit"],
        final_steps=settings["tfinal"],
        interval=settings["deltaT"],
        orthogonality=0.0,
    )
    rule, drawn = adapted.method(peft), adapter_layers.drawn
    kernels, xs, target = jax.tree.map(jnp.asarray, adapter_layers.allocation_inputs())
    params = {}
    for k, kernel in enumerate(kernels):
        name, (outputs, inputs) = f"base_model.model.proj{k}.lora_", kernel.shape
        own = {
            "a": drawn(f"{name}A", (peft.rank, inputs)).T,
            "e": np.zeros(peft.rank, np.float32),
            "b": drawn(f"{name}B", (outputs, peft.rank)).T,
        }
        params[f"proj{k}"] = {"kernel_adalora": jax.tree.map(jnp.asarray, own)}
    steps = adapter_layers.STEPS
    optimizer = allocation.allocating(
        peft, steps, optax.with_extra_args_support(optax.sgd(adapter_layers.RATE))
    )

    def loss(params, x):
        for k, kernel in enumerate(kernels):
            w = params[f"proj{k}"]["kernel_adalora"]
            x = jnp.tanh(rule.after(x, x @ kernel.T, kernel.T, w))
        return jnp.sum(jnp.square(x - target))

    @jax.jit
    def step(params, state, x):
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    state, found = optimizer.init(params), []
    for x in xs:
        params, state = step(params, state, jnp.asarray(x))
        found.append([v for k, v in flatten_dict(params).items() if k[-1] == "e"])
    return peft, found, state


def test_ranks_are_pefts_after_each_step():
    ours = [[(np.asarray(e) != 0).tolist() for e in es] for es in allocated()[1]]
    assert ours == adapter_layers.ranks()


def test_ranks_end_at_the_budget_and_differ():
    peft, found, state = allocated()
    ranks = [int((np.asarray(e) != 0).sum()) for e in found[-1]]
    assert sum(ranks) == peft.target_rank * len(ranks)
    assert len(set(ranks)) > 1
    kept = [v for k, v in flatten_dict(state.kept).items()]
    assert [int(mask.sum()) for mask in kept] == ranks


@pytest.mark.parametrize("end", [1, 2, 9, 40])
def test_the_budget_of_a_step_is_that_of_its_curve(end):
    """The curve is looked up by the steps at which it falls."""
    peft = AdaLoRA(rank=5, target_rank=2, initial_steps=min(3, end - 1))
    curve = allocation.budgets(peft, end, 7)
    assert curve[0] == 35 and curve[-1] == 14
    scores = {(str(k), "e"): jnp.zeros(5) for k in range(7)}
    due = jax.jit(lambda t: allocation._due(peft, end, scores, t)[0])
    assert [int(due(t)) for t in range(end + 1)] == curve.tolist()
