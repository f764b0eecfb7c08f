"""SmolLM3 (Hugging Face 2025): Llama, every fourth layer without positions."""

import dataclasses
from typing import Any

from llmjax.config import LayerSpec, ModelConfig, NoPositions
from llmjax.hub.families import classifiers, llama, patterns
from llmjax.hub.table import Family

DEFAULTS: dict[str, Any] = {  # values of absent keys
    "num_key_value_heads": 4,
    "rope_theta": 2e6,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}


def to_config(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS | hf
    cfg, every = llama.to_config(hf), hf["no_rope_layer_interval"]
    rotary = hf.get("no_rope_layers")  # 1 for a layer with positions
    if rotary is None:
        rotary = [(i + 1) % every for i in range(cfg.L)]
    if len(rotary) < cfg.L:
        raise ValueError(
            f"no_rope_layers has {len(rotary)} layers and num_hidden_layers is {cfg.L}"
        )
    window = hf.get("sliding_window") if hf.get("use_sliding_window") else None
    kinds = {patterns.FULL: LayerSpec()}
    if window is not None:
        kinds[patterns.SLIDING] = patterns.windowed(window)
    types = hf.get("layer_types") or [
        patterns.FULL if window is None or rotary[i] else patterns.SLIDING
        for i in range(cfg.L)
    ]
    specs = patterns.layers(patterns.from_types(types, cfg.L, kinds))
    bare = [dataclasses.replace(spec, positions=NoPositions()) for spec in specs]
    mixed = [specs[i] if rotary[i] else bare[i] for i in range(cfg.L)]
    return dataclasses.replace(cfg, groups=patterns.groups(mixed))


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    specs, window = patterns.layers(cfg.layers), patterns.window(cfg.layers)
    return llama.to_hf(cfg) | {
        "no_rope_layers": [int(spec.positions is None) for spec in specs],
        "layer_types": patterns.to_types(cfg.layers),
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "pad_token_id": None,  # the default is the published vocabulary's
    }


FAMILIES = (
    Family(
        "smollm3",
        {
            "SmolLM3ForCausalLM": "LanguageModel",
            "SmolLM3Model": "Encoder",
            **classifiers.score("SmolLM3"),
            **classifiers.tags("SmolLM3"),
        },
        to_config,
        to_hf,
        llama.table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
