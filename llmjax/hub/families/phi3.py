"""Phi-3, 3.5 and 4 (Abdin et al. 2024, arXiv:2404.14219): Llama with fused weights."""

import dataclasses
from typing import Any

from llmjax.config import Group, LongRope, ModelConfig, NoScaling, Rotary
from llmjax.hub.families import classifiers, llama, patterns, rope
from llmjax.hub.table import Entry, Family, Table

LAYER = llama.LAYER
BLOCK = (
    *llama.NORMS,
    Entry(
        f"{LAYER}.self_attn.qkv_proj.weight",
        ("attention/query/kernel", "attention/key/kernel", "attention/value/kernel"),
        ("(N H) D -> D N H", "(K H) D -> D K H", "(K H) D -> D K H"),
    ),
    Entry(
        f"{LAYER}.self_attn.o_proj.weight", "attention/out/kernel", "D (N H) -> N H D"
    ),
    Entry(
        f"{LAYER}.mlp.gate_up_proj.weight",
        ("mlp/gate/kernel", "mlp/up/kernel"),
        "(p F) D -> p D F",
    ),
    Entry(f"{LAYER}.mlp.down_proj.weight", "mlp/down/kernel", "D F -> F D"),
)
ORIGINAL = "original_max_position_embeddings"
DEFAULTS = {  # values of absent keys
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    ORIGINAL: 4096,
}


def to_config(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS | hf
    rotary, longest = rope.parameters(hf), hf["max_position_embeddings"]
    # of two keys for it, the one outside of rope_parameters wins
    original = {k: hf[k] for k in (ORIGINAL,) if hf[k] is not None}
    positions = rope.rotary(rotary | original, longest)
    if not isinstance(positions.scaling, (NoScaling, LongRope)):
        raise ValueError(
            f"rope_type is {positions.scaling.kind!r}; accepted: default, longrope"
        )
    cfg = llama.to_config(hf | {"rope_parameters": None, "rope_scaling": None})
    spec = patterns.windowed(hf.get("sliding_window"))
    return dataclasses.replace(
        cfg,
        groups=(Group(cfg.L, (spec,)),),
        biases="none",
        positions=positions,
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.positions, Rotary):
        raise ValueError(f"positions is {cfg.positions.kind!r}; accepted: 'rotary'")
    rotary = rope.to_hf(cfg.positions)
    hf = llama.to_hf(dataclasses.replace(cfg, positions=Rotary())) | rotary
    original = rotary["rope_parameters"].get(ORIGINAL)
    return hf | {
        "sliding_window": patterns.window(cfg.layers),
        # transformers reads this key here before it looks into rope_parameters
        ORIGINAL: original or hf["max_position_embeddings"],
        "pad_token_id": None,  # or transformers takes 32000, whatever the vocabulary
    }


def table(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK)


FAMILIES = (
    Family(
        "phi3",
        {
            "Phi3ForCausalLM": "LanguageModel",
            "Phi3Model": "Encoder",
            **classifiers.score("Phi3"),
            **classifiers.tags("Phi3"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
