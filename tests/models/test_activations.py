"""Activations of all layers: what they are, and that nothing changes without them."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    BlockedAttention,
    FullRemat,
    Group,
    LayerSpec,
    LayoutConfig,
    Mixture,
    Pipeline,
    SlidingWindow,
)
from llmjax.models import stack
from llmjax.models.activations import NAMES, activations
from llmjax.models.attention import latent, multihead
from llmjax.models.experts import mixture
from llmjax.models.forward import forward
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.multi_token import PredictionHeads, last_apart
from llmjax.models.transformer import Transformer
from llmjax.parallel.mesh import make_mesh, use

pytestmark = pytest.mark.usefixtures("quick_compile")
BATCH = {"tokens": np.arange(24, dtype=np.int32).reshape(4, 6)}


@pytest.fixture(scope="module")
def mixed(tiny):
    """Two repeats of a local and a global layer, then a mixture."""
    local = LayerSpec(pattern=SlidingWindow(2))
    experts = LayerSpec(mlp=Mixture(num_experts=4, top_k=2))
    groups = (Group(2, (local, LayerSpec())), Group(1, (experts,)))
    return dataclasses.replace(tiny, groups=groups)


def texts(model, params, batch=BATCH):
    """A loss as it is traced, and its step as the compiler gets it."""

    def loss(params, batch):
        out, sums = forward(model, {"params": params}, batch)
        leaves = jax.tree.leaves((out, sums))
        return sum(jnp.sum(jnp.float32(leaf) ** 2) for leaf in leaves)

    traced = re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(loss)(params, batch)))
    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, batch)
    return traced, lowered.as_text()


@pytest.mark.parametrize("remat", [FullRemat(), LayoutConfig().remat])
def test_the_program_is_the_same_without_them(mixed, random_params, monkeypatch, remat):
    """As if no layer recorded anything, and no scan carried it."""
    model = LanguageModel(mixed, LayoutConfig(remat=remat))
    params = random_params(model, BATCH)
    before = texts(model, params)
    monkeypatch.setattr(stack, "NAMES", ())
    for module in stack, multihead, latent, mixture:
        monkeypatch.setattr(module, "record", lambda *args: None)
    monkeypatch.setattr(stack, "recording", lambda *args: False)
    jax.clear_caches()
    assert texts(model, params) == before


def test_they_are_part_of_the_program_when_asked_for(mixed, random_params):
    model = LanguageModel(mixed)
    params = random_params(model, BATCH)
    shapes = jax.eval_shape(
        lambda p, b: model.apply({"params": p}, b, mutable=list(NAMES))[1],
        params,
        BATCH,
    )
    assert shapes.keys() == NAMES.keys()


@pytest.fixture(scope="module")
def inside(mixed, random_params):
    """(model, params, all activations)."""
    model = Transformer(mixed)
    params = random_params(model, BATCH)
    run = functools.partial(activations, model, names=tuple(NAMES))
    return model, params, jax.jit(run)({"params": params}, BATCH)


def test_states_add_up_layer_by_layer(inside):
    """In the layers' order: groups, repeats, patterns."""
    _, _, values = inside
    assert {name: value.shape for name, value in values.items()} == {
        "hidden_states": (6, 4, 6, 16),
        "attentions": (5, 4, 4, 6, 6),
        "attention_outputs": (5, 4, 6, 16),
        "middle_states": (5, 4, 6, 16),
        "mlp_outputs": (5, 4, 6, 16),
        "router_logits": (1, 4, 6, 4),
    }
    before, middle = values["hidden_states"][:-1], values["middle_states"]
    np.testing.assert_allclose(
        middle, before + values["attention_outputs"], rtol=1e-5, atol=1e-5
    )
    after = middle + values["mlp_outputs"]
    np.testing.assert_allclose(before[1:], after[:-1], rtol=1e-5, atol=1e-5)


def test_maps_are_those_of_each_layers_pattern(inside):
    """Layers 0 and 2 see two tokens, the others all before them."""
    maps = np.asarray(inside[2]["attentions"])
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    seen = (maps > 0).sum(-1)[:, 0, 0]
    local, whole = [1, 2, 2, 2, 2, 2], [1, 2, 3, 4, 5, 6]
    assert seen.tolist() == [local, whole, local, whole, whole]


def test_the_last_state_is_the_output(inside):
    model, params, values = inside
    output, _ = jax.jit(model.apply)({"params": params}, BATCH)
    last = values["hidden_states"][-1]
    np.testing.assert_allclose(last, output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        LayoutConfig(unroll=4, remat=FullRemat(), attention=BlockedAttention(block=2)),
        LayoutConfig(data=4, pipeline=Pipeline(2)),
    ],
)
def test_any_layout_gives_the_same(tiny, random_params, layout):
    """Unrolled and computed again, and the stages of a pipeline."""
    plain = LanguageModel(tiny)
    params = random_params(plain, BATCH)
    expected = activations(plain, {"params": params}, BATCH)
    with use(make_mesh(layout)):
        model = LanguageModel(tiny, layout)
        values = jax.jit(lambda p: activations(model, {"params": p}, BATCH))(params)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5)


def test_of_many_heads_the_first(tiny, random_params):
    model = PredictionHeads(last_apart(tiny), depth=2)
    params = random_params(model, BATCH, method="heads")
    states = activations(model, {"params": params}, BATCH, "hidden_states")
    hidden = jax.jit(functools.partial(model.apply, method="hidden"))
    output = hidden({"params": params}, BATCH)
    assert states["hidden_states"].shape == (3, 4, 6, 16)
    np.testing.assert_allclose(states["hidden_states"][-1], output, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "says"), [("states", "hidden_states"), ("router_logits", "experts")]
)
def test_what_there_is_not_is_said(tiny, random_params, name, says):
    model = LanguageModel(tiny)
    variables = {"params": random_params(model, BATCH)}
    with pytest.raises(ValueError, match=rf"no .*{name}.*{says}"):
        activations(model, variables, BATCH, (name,))
