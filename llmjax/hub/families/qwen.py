"""Qwen 2, 2.5 and 3, dense (arXiv:2407.10671; 2412.15115; 2505.09388)."""

import dataclasses
from typing import Any

from llmjax.config import Group, ModelConfig
from llmjax.hub.families import classifiers, llama, patterns
from llmjax.hub.table import Entry, Family, Table

DEFAULTS = {"num_key_value_heads": 32, "sliding_window": 4096}  # values of absent keys
ATTENTION = "model.layers.{l}.self_attn"
BLOCK_3 = (
    *llama.BLOCK,
    Entry(f"{ATTENTION}.q_norm.weight", "attention/query_norm/scale", "H -> H"),
    Entry(f"{ATTENTION}.k_norm.weight", "attention/key_norm/scale", "H -> H"),
)


def layer_groups(hf: dict[str, Any]) -> tuple[Group, ...]:
    """Groups by `layer_types`, or in older files windows from layer `max_window_layers`
    on."""
    count = hf["num_hidden_layers"]
    window = hf["sliding_window"] if hf.get("use_sliding_window") else None
    types = hf.get("layer_types")
    if types is None:
        full = count if window is None else min(hf.get("max_window_layers", 28), count)
        types = [patterns.FULL] * full + [patterns.SLIDING] * (count - full)
    specs = {patterns.FULL: patterns.windowed(None)}
    if window is not None:
        specs[patterns.SLIDING] = patterns.windowed(window)
    return patterns.from_types(types, count, specs)


def to_config_2(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS | hf
    groups = layer_groups(hf)
    return dataclasses.replace(llama.to_config(hf), groups=groups, biases="qkv")


def to_config_3(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS | {"head_dim": 128} | hf | {"mlp_bias": False}
    groups = layer_groups(hf)
    return dataclasses.replace(llama.to_config(hf), groups=groups, qk_norm="head")


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    window = patterns.window(cfg.layers)
    return llama.to_hf(cfg) | {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": patterns.to_types(cfg.layers),
        "max_window_layers": patterns.to_types(cfg.layers).count(patterns.FULL),
    }


def table_3(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK_3)


FAMILIES = (
    Family(
        "qwen2",
        {
            "Qwen2ForCausalLM": "LanguageModel",
            "Qwen2Model": "Encoder",
            **classifiers.score("Qwen2"),
            **classifiers.tags("Qwen2"),
        },
        to_config_2,
        to_hf,
        llama.table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
    Family(
        "qwen3",
        {
            "Qwen3ForCausalLM": "LanguageModel",
            "Qwen3Model": "Encoder",
            **classifiers.score("Qwen3"),
            **classifiers.tags("Qwen3"),
        },
        to_config_3,
        to_hf,
        table_3,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
