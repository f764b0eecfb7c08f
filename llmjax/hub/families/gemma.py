"""Gemma 1, 2 and the text of 3 (arXiv:2403.08295; 2408.00118; 2503.19786)."""

import dataclasses
from typing import Any

from llmjax.config import LayerSpec, ModelConfig, RMSNorm, Rotary, ScaledDot
from llmjax.hub.families import accept, classifiers, llama, patterns, rope
from llmjax.hub.table import Entry, Family, Table

LAYER = llama.LAYER
BLOCK = (
    Entry(f"{LAYER}.input_layernorm.weight", "attention_norm/scale", "D -> D"),
    *llama.ATTENTION,
    Entry(f"{LAYER}.self_attn.q_norm.weight", "attention/query_norm/scale", "H -> H"),
    Entry(f"{LAYER}.self_attn.k_norm.weight", "attention/key_norm/scale", "H -> H"),
    Entry(
        f"{LAYER}.post_attention_layernorm.weight",
        "attention_post_norm/scale",
        "D -> D",
    ),
    Entry(f"{LAYER}.pre_feedforward_layernorm.weight", "mlp_norm/scale", "D -> D"),
    *llama.MLP,
    Entry(
        f"{LAYER}.post_feedforward_layernorm.weight", "mlp_post_norm/scale", "D -> D"
    ),
)
DEFAULTS: dict[str, Any] = {  # values of absent keys
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
DEFAULTS_1: dict[str, Any] = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
DEFAULTS_2 = DEFAULTS | {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window_pattern": 2,
}
DEFAULTS_3 = DEFAULTS | {
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}


def table(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK)


def _to_config(hf: dict[str, Any], local: LayerSpec) -> ModelConfig:
    """The ModelConfig that Gemma 2 and 3 have in common.

    Args:
      local: a layer with a window.
    """
    accept.only(hf, use_bidirectional_attention=False)
    count, types = hf["num_hidden_layers"], hf.get("layer_types")
    if types is None:
        every = hf["sliding_window_pattern"]
        types = [
            patterns.SLIDING if (i + 1) % every else patterns.FULL for i in range(count)
        ]
    specs = {patterns.FULL: LayerSpec(), patterns.SLIDING: local}
    cfg = llama.to_config(
        hf | {"hidden_act": hf["hidden_activation"], "mlp_bias": False}
    )
    return dataclasses.replace(
        cfg,
        groups=patterns.from_types(types, count, specs),
        embedding_scale=cfg.d_model**0.5,
        norm=RMSNorm(cfg.norm.epsilon, offset=1.0),
        norm_position="both",
        scores=ScaledDot(hf["query_pre_attn_scalar"] ** -0.5),
        softcap=hf["attn_logit_softcapping"],
        output_softcap=hf["final_logit_softcapping"],
    )


def to_config_1(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, use_bidirectional_attention=False)
    hf = DEFAULTS_1 | hf | {"mlp_bias": False}
    if hf["hidden_act"] == "gelu":  # the first files say so and mean tanh's
        hf["hidden_act"] = DEFAULTS_1["hidden_act"]
    cfg = llama.to_config(hf)
    return dataclasses.replace(
        cfg,
        embedding_scale=cfg.d_model**0.5,
        norm=RMSNorm(cfg.norm.epsilon, offset=1.0),
    )


def to_config_2(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS_2 | hf
    return _to_config(hf, patterns.windowed(hf["sliding_window"]))


def to_config_3(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS_3 | hf
    by_kind = hf.get("rope_parameters") or {}
    far = (by_kind.get(patterns.FULL) or {}) | (hf.get("rope_scaling") or {})
    near = {
        "rope_parameters": by_kind.get(patterns.SLIDING),
        "max_position_embeddings": hf.get("max_position_embeddings"),
    }
    positions = rope.to_config(near, float(hf["rope_local_base_freq"]))
    local = dataclasses.replace(
        patterns.windowed(hf["sliding_window"]), positions=rope.whole(positions)
    )
    unread = {"attn_logit_softcapping": None}  # a key, but its attention caps nothing
    cfg = _to_config(
        hf | {"rope_parameters": far, "rope_scaling": None} | unread, local
    )
    return dataclasses.replace(cfg, qk_norm="head")


def _activation(hf: dict[str, Any]) -> str:
    """The MLPs' activation: of two names for one, the one in published files."""
    act = hf["hidden_act"]
    return "gelu_pytorch_tanh" if act == "gelu_new" else act


def to_hf_1(cfg: ModelConfig) -> dict[str, Any]:
    hf = llama.to_hf(cfg)
    return hf | {"hidden_act": _activation(hf)}


def to_hf_2(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.scores, ScaledDot):
        raise ValueError(f"scores is {cfg.scores.kind!r}; accepted: 'scaled_dot'")
    scale = cfg.scores.scale or cfg.H**-0.5
    hf = llama.to_hf(cfg)
    return {k: v for k, v in hf.items() if k != "hidden_act"} | {
        "hidden_activation": _activation(hf),
        "query_pre_attn_scalar": round(scale**-2),  # transformers takes whole numbers
        "attn_logit_softcapping": cfg.softcap,
        "final_logit_softcapping": cfg.output_softcap,
        "sliding_window": patterns.window(cfg.layers),
        "layer_types": patterns.to_types(cfg.layers),
    }


def to_hf_3(cfg: ModelConfig) -> dict[str, Any]:
    hf = to_hf_2(cfg)
    rotaries = {
        kind: rope.whole_to_hf(spec.positions)["rope_parameters"]
        for kind, spec in zip(
            hf["layer_types"], patterns.layers(cfg.layers), strict=True
        )
        if isinstance(spec.positions, Rotary)
    }
    return hf | {"rope_parameters": {patterns.FULL: hf["rope_parameters"]} | rotaries}


FAMILIES = (
    Family(
        "gemma",
        {
            "GemmaForCausalLM": "LanguageModel",
            "GemmaModel": "Encoder",
            **classifiers.score("Gemma"),
            **classifiers.tags("Gemma"),
        },
        to_config_1,
        to_hf_1,
        llama.table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
    Family(
        "gemma2",
        {
            "Gemma2ForCausalLM": "LanguageModel",
            "Gemma2Model": "Encoder",
            **classifiers.score("Gemma2"),
            **classifiers.tags("Gemma2"),
        },
        to_config_2,
        to_hf_2,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
    Family(
        "gemma3_text",
        {
            "Gemma3ForCausalLM": "LanguageModel",
            "Gemma3TextModel": "Encoder",
            **classifiers.score("Gemma3Text"),
        },
        to_config_3,
        to_hf_3,
        table,
        classifier=classifiers.SCORE,
    ),
)
