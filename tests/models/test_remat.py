"""What remat keeps by name: each name is there, saves work, and changes no gradient."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    Activations,
    FullRemat,
    Latent,
    LayoutConfig,
    Mixture,
    ModelConfig,
    NamesRemat,
    Plain,
    SplashAttention,
)
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.axes import param_axes

NAMES = typing.get_args(Activations)
TINY = ModelConfig(vocab_size=16, d_model=8, d_ff=12, num_layers=2, num_heads=2)
MODELS = {
    "gated": TINY,
    "plain": dataclasses.replace(TINY, mlp=Plain()),
    "latent": dataclasses.replace(TINY, heads=Latent(4, 6, 2, 4), head_dim=4),
    "mixture": dataclasses.replace(TINY, mlp=Mixture(4, 2, 12)),
}


def gradient(cfg, T=8, **layout):
    """Of a sum over the logits by the weights; the model and its batch."""
    model = LanguageModel(cfg, LayoutConfig(**layout))
    batch = {"tokens": jnp.arange(2 * T).reshape(2, T) % cfg.vocab_size}

    def loss(params):
        logits, _ = model.apply({"params": params}, batch)
        return jnp.sum(jnp.sin(logits.astype(jnp.float32)))

    return jax.grad(loss), model, batch


def equations(jaxpr):
    """All of a jaxpr, those of its inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def traced(cfg, T=8, **layout):
    call, model, batch = gradient(cfg, T, **layout)
    shapes, _ = param_axes(model, batch)
    return list(equations(jax.make_jaxpr(call)(shapes).jaxpr))


def matmuls(cfg, **layout):
    names = ("dot_general", "ragged_dot", "ragged_dot_general")
    return sum(e.primitive.name in names for e in traced(cfg, **layout))


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_layer_has_its_names(kind):
    found = {
        e.params["name"] for e in traced(MODELS[kind]) if e.primitive.name == "name"
    }
    assert found == set(NAMES) - ({"gate"} if kind == "plain" else set())


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_kept_is_not_computed_again(kind):
    cfg = MODELS[kind]
    kept = [(), ("query",), ("query", "key", "value"), NAMES]
    counts = [matmuls(cfg, remat=NamesRemat(saved)) for saved in kept]
    assert counts == sorted(set(counts), reverse=True), counts
    assert counts[0] == matmuls(cfg, remat=FullRemat())
    assert counts[-1] >= matmuls(cfg)


def test_what_is_offloaded_is_brought_to_the_host():
    layout = {"remat": NamesRemat(("query",), ("input", "up"))}
    moved = [e for e in traced(TINY, **layout) if e.primitive.name == "device_put"]
    to = [str(e.params["devices"][0]) for e in moved]
    assert sum("pinned_host" in device or "Host" in device for device in to) >= 2, to


def test_a_kernels_result_is_kept_once():
    """One [L, B, N, T, H] for the backward kernels, no second one for `out`."""
    names = NamesRemat(("context",))
    found = traced(TINY, 128, remat=names, attention=SplashAttention())
    loops = [e for e in found if e.primitive.name == "scan"]
    kept = [v.aval.shape for loop in loops for v in loop.outvars if v.aval.ndim == 5]
    assert kept == [(2, 2, 2, 128, 4)]
    kernels = [e for e in found if e.primitive.name == "pallas_call"]
    # forward, dq, dk and dv; jax 0.10 runs the forward one again all the same
    assert len(kernels) == (3 if jax.__version_info__ >= (0, 11) else 4)


@pytest.mark.parametrize("kind", ["gated", "mixture"])
@pytest.mark.usefixtures("quick_compile")
def test_gradients_are_those_without(kind, random_params):
    cfg = MODELS[kind]
    want = None
    for layout in (
        {},
        {"remat": NamesRemat(("query", "context"))},
        {"remat": NamesRemat(("context",), ("input", "up"))},
    ):
        call, model, batch = gradient(cfg, **layout)
        got = jax.jit(call)(random_params(model, batch))
        want = want or got

        def close(a, b):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

        jax.tree.map(close, got, want)
