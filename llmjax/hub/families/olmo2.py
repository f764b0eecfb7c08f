"""OLMo 2 (OLMo et al. 2025, arXiv:2501.00656).

Norms after the sublayers, and norms of queries and keys.
"""

import dataclasses
from typing import Any

from llmjax.config import ModelConfig
from llmjax.hub.families import llama
from llmjax.hub.table import Entry, Family, Table

LAYER = llama.LAYER
ATTENTION = f"{LAYER}.self_attn"
BLOCK = (
    *llama.ATTENTION,
    Entry(f"{ATTENTION}.q_norm.weight", "attention/query_norm/scale", "(N H) -> N H"),
    Entry(f"{ATTENTION}.k_norm.weight", "attention/key_norm/scale", "(K H) -> K H"),
    Entry(
        f"{LAYER}.post_attention_layernorm.weight",
        "attention_post_norm/scale",
        "D -> D",
    ),
    *llama.MLP,
    Entry(
        f"{LAYER}.post_feedforward_layernorm.weight", "mlp_post_norm/scale", "D -> D"
    ),
)


def to_config(hf: dict[str, Any]) -> ModelConfig:
    cfg = llama.to_config({"rms_norm_eps": 1e-5} | hf | {"mlp_bias": False})
    return dataclasses.replace(cfg, qk_norm="all", norm_position="output")


def table(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK)


FAMILIES = (
    Family(
        "olmo2",
        {"Olmo2ForCausalLM": "LanguageModel", "Olmo2Model": "Encoder"},
        to_config,
        llama.to_hf,
        table,
    ),
)
