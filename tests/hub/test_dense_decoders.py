"""The dense decoders' config.json in all its spellings; layers in groups."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from llmjax import hub
from llmjax.config import (
    BlockSparse,
    Group,
    LayerSpec,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ModelConfig,
    NoScaling,
    Rotary,
    SlidingWindow,
    YaRN,
)
from llmjax.hub import families
from llmjax.hub.families import gpt2, patterns
from llmjax.models.forward import forward, variables
from llmjax.models.heads.language import LanguageModel

pytestmark = pytest.mark.usefixtures("quick_compile")

GLOBAL, LOCAL, WIDE = LayerSpec(), *map(patterns.windowed, (4, 5))


# --- layers and groups ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("GGGG", [(4, "G")]),
        ("LGLGL", [(2, "LG"), (1, "L")]),
        ("LLLLLG" * 4 + "LL", [(4, "LLLLLG"), (2, "L")]),  # Gemma 3 1B
        ("G" * 28 + "L" * 4, [(28, "G"), (4, "L")]),  # Qwen 2 from a layer on
        ("WGGLGGLGGL", [(1, "W"), (3, "GGL")]),
    ],
)
def test_layers_become_the_groups_that_repeat_most(layers, expected):
    specs = {"G": GLOBAL, "L": LOCAL, "W": WIDE}
    groups = patterns.groups([specs[c] for c in layers])
    assert groups == tuple(
        Group(repeat, tuple(specs[c] for c in pattern)) for repeat, pattern in expected
    )


def test_groups_have_the_same_layers_in_the_same_order():
    for layers in itertools.product((GLOBAL, LOCAL, WIDE), repeat=6):
        assert patterns.layers(patterns.groups(layers)) == list(layers)


def test_windows_of_groups():
    groups = patterns.groups([LOCAL, GLOBAL, LOCAL])
    assert patterns.window(groups) == 4
    assert patterns.to_types(groups) == [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ]
    assert patterns.window((Group(2),)) is None


@pytest.mark.parametrize("odd", [WIDE, LayerSpec(BlockSparse())])
def test_patterns_that_the_hub_lacks(odd):
    with pytest.raises(ValueError, match="one sliding window besides global"):
        patterns.window((Group(1, (LOCAL, odd)),))


# --- config.json ---------------------------------------------------------------------

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 32}


def config_of(family: str, **hf) -> ModelConfig:
    sizes = GPT2 if family == "gpt2" else SIZES
    return families.family(family).to_config(sizes | hf)


def rope(kind: str, theta: float, **others) -> dict:
    return {"rope_type": kind, "rope_theta": theta} | others


FACTORS = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("family", "before", "now"),
    [
        (
            "llama",
            {"rope_theta": 5e5, "rope_scaling": {"type": "llama3"} | LLAMA3},
            {"rope_parameters": rope("llama3", 5e5, **LLAMA3)},
        ),
        (
            "gpt_neox",
            {"rotary_pct": 0.5, "rotary_emb_base": 2e4},
            {"rope_parameters": rope("default", 2e4, partial_rotary_factor=0.5)},
        ),
        ("gpt_neox", {}, {"rope_parameters": {"partial_rotary_factor": 0.25}}),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
            },
        ),
        (
            "qwen2_moe",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        ),
        (
            "phi",
            {"partial_rotary_factor": 0.5},
            {"rope_parameters": rope("default", 1e4, partial_rotary_factor=0.5)},
        ),
        ("phi", {}, {"partial_rotary_factor": 0.5}),
        (
            "smollm3",
            {"no_rope_layer_interval": 2},
            {"no_rope_layers": [1, 0, 1, 0]},
        ),
        ("qwen3_moe", {"decoder_sparse_step": 2}, {"mlp_only_layers": [0, 2]}),
        ("qwen3_moe", {"num_local_experts": 16}, {"num_experts": 16}),
        ("gemma", {"hidden_act": "gelu"}, {"hidden_act": "gelu_pytorch_tanh"}),
        (
            "phi3",
            {
                "num_attention_heads": 4,  # of two pairs each
                "original_max_position_embeddings": 16,
                "rope_scaling": {"type": "longrope"} | FACTORS,
            },
            {
                "num_attention_heads": 4,
                "original_max_position_embeddings": 16,
                "rope_parameters": rope("longrope", 1e4, factor=4.0, **FACTORS),
            },
        ),
        (
            "gemma3_text",
            {
                "rope_local_base_freq": 9e3,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window_pattern": 2,
            },
            {
                "rope_parameters": {
                    "full_attention": rope("linear", 1e6, factor=8.0),
                    "sliding_attention": rope("default", 9e3),
                },
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        ),
    ],
)
def test_earlier_spellings_mean_the_same(family, before, now):
    assert config_of(family, **before) == config_of(family, **now)


SCALED = {"rope_type": "linear", "factor": 4.0}
OTHER = {"rope_type": "linear", "factor": 2.0, "rope_theta": 9e3}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "gpt_neox"])
def test_rope_scaling_counts_where_rope_parameters_stand_beside_it(family):
    """As in transformers 5: `rope_scaling or rope_parameters`, whole."""
    both = config_of(family, rope_scaling=SCALED, rope_parameters=OTHER)
    assert both == config_of(family, rope_scaling=SCALED)
    assert both.positions.scaling == LinearScaling(4.0)
    assert both.positions.theta == 1e4


@pytest.mark.parametrize("family", ["gemma3_text", "modernbert"])
def test_rope_scaling_mixes_with_rope_parameters_by_kind(family):
    local, far = "sliding_attention", "full_attention"
    by_kind = {far: {"rope_theta": 7e5}, local: {"rope_theta": 5e3}}
    cfg = config_of(family, rope_scaling=SCALED, rope_parameters=by_kind)
    assert cfg.positions == Rotary(7e5, scaling=LinearScaling(4.0))
    (near,) = {spec.positions for spec in patterns.layers(cfg.layers)} - {None}
    # ModernBERT's scaling is of both kinds, Gemma's of the global layers
    scaling = {"modernbert": LinearScaling(4.0)}.get(family, NoScaling())
    assert near == Rotary(5e3, scaling=scaling)


WHOLE = ["llama", "mistral", "qwen2", "qwen3", "olmo2", "mixtral", "gpt_oss"]
WHOLE += ["gemma2", "gemma3_text"]


@pytest.mark.parametrize("family", WHOLE)
def test_partial_rotary_factor_is_read_where_the_class_reads_it(family):
    """Llama's class and its kin turn whole heads, whatever config.json says."""
    plain = {"rope_scaling": {"rope_type": "default"}}
    part = config_of(family, partial_rotary_factor=0.5, **plain)
    assert part == config_of(family, **plain)
    assert config_of("phi3", partial_rotary_factor=0.5).positions.fraction == 0.5
    with pytest.raises(ValueError, match="partial_rotary_factor is 0.5.*'linear'"):
        config_of(family, partial_rotary_factor=0.5, rope_scaling=SCALED)


@pytest.mark.parametrize("family", ["modernbert", "gemma2", "gemma3_text"])
def test_null_for_a_key_that_layer_types_replace(family):
    types = ["sliding_attention", "full_attention"] * 2
    every = {"global_attn_every_n_layers": None, "sliding_window_pattern": None}
    cfg = config_of(family, layer_types=types, **every)
    assert patterns.to_types(cfg.layers) == types


def test_gemma_3_turns_local_layers_by_a_theta_of_their_own():
    cfg = config_of("gemma3_text", sliding_window=8, sliding_window_pattern=4)
    local = LayerSpec(SlidingWindow(8), positions=Rotary(1e4))
    assert cfg.positions == Rotary(1e6)
    assert patterns.layers(cfg.layers) == [local, local, local, LayerSpec()]


def test_the_scalings_of_rotary_positions():
    yarn = config_of("qwen2", rope_scaling={"type": "yarn", "factor": 4.0})
    assert yarn.positions == Rotary(scaling=YaRN(4.0, original_length=64))
    llama = config_of("llama", rope_scaling={"rope_type": "llama3"} | LLAMA3)
    assert llama.positions == Rotary(scaling=Llama3Scaling(8.0, 1.0, 4.0, 32))
    phi = config_of(
        "phi3",
        original_max_position_embeddings=16,
        partial_rotary_factor=0.5,
        rope_scaling={"type": "longrope"} | FACTORS,
    )
    factor = np.sqrt(1 + np.log(64 / 16) / np.log(16))
    scaling = LongRope((1.0, 1.5), (2.0, 3.0), 16, factor)
    assert phi.positions == Rotary(fraction=0.5, scaling=scaling)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse"),
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function.*quick"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types has 1 layers"),
        ("qwen3", {"layer_types": ["linear_attention"] * 4}, "'linear_attention'"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "'sliding_attention'"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn'; accepted"),
        ("mistral", {"rope_scaling": {"type": "proportional"}}, "'proportional'"),
        ("olmo2", {"quantization_config": {"quant_method": "awq"}}, "'awq'"),
        (
            "llama",
            {
                "max_position_embeddings": None,
                "rope_scaling": {"type": "dynamic", "factor": 2.0},
            },
            "max_position_embeddings is missing",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_key(family, changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(family, **changes)


# --- files ---------------------------------------------------------------------------


def test_gpt2_without_its_prefix_and_with_its_buffers(tmp_path, random_params):
    """Files named like OpenAI's own at the hub."""
    model = LanguageModel(gpt2.to_config(GPT2))
    params = random_params(model, {"tokens": jnp.zeros((1, 4), jnp.int32)})
    tensors = {
        name.removeprefix("transformer."): value
        for name, value in hub.to_hub(gpt2.FAMILIES[0], model.cfg, params).items()
    }
    tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 32, 32), np.float32))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    config = GPT2 | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    batch = {"tokens": jnp.arange(5)[None]}
    again, loaded = hub.load(tmp_path)
    np.testing.assert_array_equal(
        forward(again, variables(loaded), batch)[0][0],
        forward(model, variables(params), batch)[0][0],
    )
