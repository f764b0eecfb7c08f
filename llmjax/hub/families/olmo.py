"""OLMo 1 and 2 (Groeneveld et al. 2024, arXiv:2402.00838; 2501.00656).

The norms of the first have no weights. The second norms after the sublayers, and norms
queries and keys.
"""

import dataclasses
from typing import Any

from llmjax.config import LayerNorm, ModelConfig
from llmjax.hub.families import accept, classifiers, llama
from llmjax.hub.table import Entry, Family, Table

LAYER = llama.LAYER
ATTENTION = f"{LAYER}.self_attn"
BLOCK_2 = (
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


def to_config_1(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, clip_qkv=None)
    cfg = llama.to_config(hf | {"mlp_bias": False})
    return dataclasses.replace(cfg, norm=LayerNorm(bias=False, scale=False))


def to_hf_1(cfg: ModelConfig) -> dict[str, Any]:
    hf = llama.to_hf(cfg)
    return {k: v for k, v in hf.items() if k not in ("rms_norm_eps", "mlp_bias")}


def to_config_2(hf: dict[str, Any]) -> ModelConfig:
    cfg = llama.to_config({"rms_norm_eps": 1e-5} | hf | {"mlp_bias": False})
    return dataclasses.replace(cfg, qk_norm="all", norm_position="output")


def table_2(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK_2)


FAMILIES = (
    Family(
        "olmo",
        {
            "OlmoForCausalLM": "LanguageModel",
            "OlmoModel": "Encoder",
            **classifiers.score("Olmo"),
        },
        to_config_1,
        to_hf_1,
        llama.table,
        classifier=classifiers.SCORE,
    ),
    Family(
        "olmo2",
        {
            "Olmo2ForCausalLM": "LanguageModel",
            "Olmo2Model": "Encoder",
            **classifiers.score("Olmo2"),
        },
        to_config_2,
        llama.to_hf,
        table_2,
        classifier=classifiers.SCORE,
    ),
)
