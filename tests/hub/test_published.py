"""The largest published models, built without a weight; their parameters counted."""

import pytest

from llmjax.hub import families
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
        ("deepseek_v3", "rms_norm_eps", 1e-5),
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
