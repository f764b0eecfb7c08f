"""The largest published models, built without a weight; their parameters counted."""

import dataclasses

import pytest

from llmjax.hub import families
from llmjax.hub.binding import bind
from llmjax.hub.save import find_family
from tests.hub import published
from tests.hub.published import MODELS


@pytest.mark.parametrize("entry", MODELS, ids=lambda e: e["model"].replace(" ", "_"))
def test_parameters_are_as_published(entry):
    config = entry["config"]
    model, shapes = published.build(config)
    assert published.count(shapes) == entry["parameters"] + entry["buffers"]
    if entry["published"]:
        low, high = published.span(entry["published"])
        assert low <= entry["parameters"] <= high
    # and the config can be written again
    head = type(model).__name__
    assert find_family(model.cfg, head, config["model_type"]).name


def test_every_family_is_there():
    assert {e["config"]["model_type"] for e in MODELS} == set(families.MODULES)


def published_config(model_type):
    return next(e["config"] for e in MODELS if e["config"]["model_type"] == model_type)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("olmo", "clip_qkv", 8.0),
        ("falcon", "alibi", True),
        ("falcon", "parallel_attn", False),
        ("gptj", "rotary_dim", 300),
        ("opt", "word_embed_proj_dim", 512),
        ("smollm3", "no_rope_layers", [1, 0]),
        ("mixtral", "attention_bias", True),
        ("mixtral", "router_jitter_noise", 0.1),
        ("gpt_oss", "quantization_config", {"quant_method": "mxfp4"}),
        ("gpt_oss", "layer_types", ["linear_attention"] * 36),
        ("deepseek_v3", "quantization_config", {"quant_method": "fp8"}),
        ("deepseek_v3", "attention_bias", True),
        ("deepseek_v3", "topk_method", "greedy"),
        ("deepseek_v3", "scoring_func", "softmax"),
        ("deepseek_v3", "moe_layer_freq", 2),
        ("t5", "feed_forward_proj", "gated-tanh"),
        ("t5", "is_encoder_decoder", False),
        ("bart", "encoder_attention_heads", 8),
        ("mbart", "tie_word_embeddings", False),
        ("marian", "share_encoder_decoder_embeddings", False),
        ("marian", "decoder_vocab_size", 100),
    ],
)
def test_what_we_cannot_do_is_refused_by_its_key(model_type, key, value):
    config = published_config(model_type) | {key: value}
    with pytest.raises(ValueError, match=f"^{key} "):
        families.family(model_type).to_config(config)


@pytest.mark.parametrize("scale", [0, -2.5, 1e39])
def test_the_scale_of_routed_experts_has_a_range(scale):
    config = published_config("deepseek_v3") | {"routed_scaling_factor": scale}
    with pytest.raises(ValueError, match=r"^scale is .*; it must be positive"):
        families.family("deepseek_v3").to_config(config)


def test_deepseek_s_latents_have_an_epsilon_of_their_own():
    """1e-6, whatever rms_norm_eps says."""
    config = published_config("deepseek_v3") | {"rms_norm_eps": 1e-5}
    cfg = families.family("deepseek_v3").to_config(config)
    assert (cfg.norm.epsilon, cfg.heads.norm_epsilon) == (1e-5, 1e-6)
    assert find_family(cfg, "LanguageModel").name == "deepseek_v3"
    other = dataclasses.replace(cfg.heads, norm_epsilon=None)
    with pytest.raises(ValueError, match="heads is .* and would become"):
        find_family(dataclasses.replace(cfg, heads=other), "LanguageModel")


@pytest.mark.parametrize(
    ("changes", "repeats", "inner"),
    [
        ({}, [12], 1),
        ({"num_hidden_groups": 4}, [3, 3, 3, 3], 1),
        ({"num_hidden_groups": 5, "inner_group_num": 2}, [3, 2, 3, 2, 2], 2),
        ({"num_hidden_groups": None, "inner_group_num": None}, [12], 1),
    ],
)
def test_albert_s_groups_repeat_weights_of_their_own(changes, repeats, inner):
    """Layer i is of group int(i / (layers / groups)), as in transformers."""
    family = families.family("albert")
    config = published_config("albert") | changes
    cfg = family.to_config(config)
    assert [group.repeat for group in cfg.layers] == repeats
    assert all(g.shared and len(g.pattern) == inner for g in cfg.layers)
    assert find_family(cfg, "Encoder", "albert").to_hf(cfg)["num_hidden_layers"] == 12
    _, shapes = published.build(config)
    names = {b.name for b in bind(family.table(cfg), shapes)}
    last = f"albert_layer_groups.{len(repeats) - 1}.albert_layers.{inner - 1}.ffn.bias"
    assert f"albert.encoder.{last}" in names


def test_albert_has_no_more_groups_than_layers():
    config = published_config("albert") | {"num_hidden_groups": 13}
    with pytest.raises(ValueError, match="num_hidden_groups is 13; accepted: at most"):
        families.family("albert").to_config(config)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("gelu_python", "gelu"),
        ("gelu_python_tanh", "gelu_tanh"),
        ("gelu_accurate", "gelu_tanh"),
        ("gelu_new", "gelu_tanh"),
    ],
)
def test_older_names_of_activations(name, ours):
    """ELECTRA's discriminator has its MLPs' activation, its generator exact GELU."""
    for model_type in ("bert", "electra"):
        config = published_config(model_type) | {"hidden_act": name}
        cfg = families.family(model_type).to_config(config)
        assert cfg.mlp.activation == ours
        head = {"bert": ours, "electra": "gelu"}[model_type]
        assert cfg.output.activation == head
