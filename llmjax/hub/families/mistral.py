"""Mistral 7B and its successors (Jiang et al. 2023, arXiv:2310.06825)."""

import dataclasses
from typing import Any

from llmjax.config import Group, ModelConfig
from llmjax.hub.families import classifiers, llama, patterns
from llmjax.hub.table import Family

DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}  # values of absent keys


def to_config(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS | hf
    spec = patterns.windowed(hf["sliding_window"])
    groups = (Group(hf["num_hidden_layers"], (spec,)),)
    return dataclasses.replace(llama.to_config(hf), groups=groups, biases="none")


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(cfg) | {"sliding_window": patterns.window(cfg.layers)}


FAMILIES = (
    Family(
        "mistral",
        {
            "MistralForCausalLM": "LanguageModel",
            "MistralModel": "Encoder",
            **classifiers.score("Mistral"),
            **classifiers.tags("Mistral"),
        },
        to_config,
        to_hf,
        llama.table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
