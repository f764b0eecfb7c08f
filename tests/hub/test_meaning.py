"""`hub.save` compares what models mean, not how they are spelled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import hub
from llmjax.config import (
    Gated,
    Global,
    Group,
    LayerSpec,
    LinearScaling,
    Mixture,
    ModelConfig,
    Plain,
    Rotary,
    ScaledDot,
    SlidingWindow,
)
from llmjax.hub.meaning import normal, simplest
from llmjax.hub.save import find_family
from llmjax.models.heads.language import LanguageModel

LOCAL = LayerSpec(SlidingWindow(5))
SPELLINGS = {  # name -> (plain, the same in other words, family)
    "groups": (
        {"groups": (Group(3),)},
        {"groups": (Group(2), Group(1))},
        "llama",
    ),
    "layers": ({"num_layers": 3}, {"groups": (Group(3),), "num_layers": 9}, "llama"),
    "patterns": (
        {"groups": (Group(2, (LOCAL, LayerSpec())),), "qk_norm": "head"},
        {
            "groups": (Group(1, (LOCAL, LayerSpec(Global()), LOCAL, LayerSpec())),),
            "qk_norm": "head",
        },
        "qwen3",
    ),
    "a width that no layer has": (
        {"d_ff": 24, "groups": (Group(3),)},
        {"d_ff": 99, "groups": (Group(3, (LayerSpec(d_ff=24),)),)},
        "llama",
    ),
    "a width beside a mixture": (
        {"mlp": Mixture(4, 2, d_ff=24), "d_ff": 24},
        {"mlp": Mixture(4, 2, d_ff=24), "d_ff": 77},
        "mixtral",
    ),
    "a feed-forward that no layer has": (
        {"mlp": Gated()},
        {"mlp": Plain(), "groups": (Group(3, (LayerSpec(mlp=Gated()),)),)},
        "llama",
    ),
    "positions that no layer has": (
        {"positions": Rotary(5e4)},
        {"groups": (Group(3, (LayerSpec(positions=Rotary(5e4)),)),)},
        "llama",
    ),
    "the scale of scores": ({}, {"scores": ScaledDot(6**-0.5)}, "llama"),
    "a head's size": (
        {"head_dim": None, "d_model": 24},
        {"head_dim": 6, "d_model": 24},
        "llama",
    ),
    "the keys' heads": ({"num_kv_heads": None}, {"num_kv_heads": 4}, "llama"),
    "a scaling by 1": (
        {},
        {"positions": Rotary(scaling=LinearScaling(1.0))},
        "llama",
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_two_spellings_are_one_model(cfg, name, tmp_path, random_params):
    plain, other, family = SPELLINGS[name]
    cfg = dataclasses.replace(cfg, num_layers=3)
    plain, other = (dataclasses.replace(cfg, **fields) for fields in (plain, other))
    head = "LanguageModel"
    assert normal(plain, head) == normal(other, head)
    for spelling in (plain, other):
        assert find_family(spelling, head, family).name == family
        assert simplest(simplest(spelling)) == simplest(spelling)
    # and what is saved is read again as the same weights in the same layers
    model = LanguageModel(other)
    params = random_params(model, {"tokens": jnp.zeros((1, 4), jnp.int32)})
    hub.save(model, params, tmp_path / "m", family=family)
    again, loaded = hub.load(tmp_path / "m")
    assert normal(again.cfg, head) == normal(other, head)
    sizes = [sum(x.size for x in jax.tree.leaves(p)) for p in (params, loaded)]
    assert sizes[0] == sizes[1]
    table = loaded["transformer"]["embedder"]["table"]
    np.testing.assert_array_equal(table, params["transformer"]["embedder"]["table"])


DIFFERENT = {
    "shared or not": ((Group(3, shared=True),), (Group(3),)),
    "another order": (
        (Group(1, (LOCAL, LayerSpec())),),
        (Group(1, (LayerSpec(), LOCAL)),),
    ),
    "another window": ((Group(1, (LOCAL,)),), (Group(1),)),
    "another width": ((Group(1, (LayerSpec(d_ff=9),)),), (Group(1),)),
    "shared in twos": ((Group(2, shared=True), Group(1)), (Group(3, shared=True),)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_models_are_others(name):
    a, b = (ModelConfig(groups=groups) for groups in DIFFERENT[name])
    assert normal(a, "LanguageModel") != normal(b, "LanguageModel")


def test_layers_that_differ_are_no_one_s_default(cfg):
    """Mistral has one kind of layer: half of a model must not speak for the whole."""
    mixed = dataclasses.replace(cfg, groups=(Group(1, (LOCAL, LayerSpec())),))
    with pytest.raises(ValueError, match="the family mistral: groups"):
        find_family(mixed, "LanguageModel", "mistral")
    widths = dataclasses.replace(cfg, groups=(Group(1), Group(1, (LayerSpec(d_ff=9),))))
    with pytest.raises(ValueError, match="no family of the hub"):
        find_family(widths, "LanguageModel")
