"""Mixtral of experts (Jiang et al. 2024, arXiv:2401.04088): Llama with mixtures."""

import dataclasses
from typing import Any

from llmjax.config import Gated, Group, Mixture, ModelConfig
from llmjax.hub.families import accept, classifiers, llama, patterns
from llmjax.hub.table import Entry, Family, Table

MLP = "model.layers.{l}.block_sparse_moe"
BLOCK = (
    *llama.NORMS,
    *llama.ATTENTION,
    Entry(f"{MLP}.gate.weight", "mlp/router/kernel", "E D -> D E"),
    Entry(f"{MLP}.experts.{{e}}.w1.weight", "mlp/experts/gate/kernel", "F D -> D F"),
    Entry(f"{MLP}.experts.{{e}}.w3.weight", "mlp/experts/up/kernel", "F D -> D F"),
    Entry(f"{MLP}.experts.{{e}}.w2.weight", "mlp/experts/down/kernel", "D F -> F D"),
)
DEFAULTS: dict[str, Any] = {  # values of absent keys
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def table(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK)


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, attention_bias=False, router_jitter_noise=0.0)
    hf = DEFAULTS | hf
    cfg = llama.to_config(hf)
    assert isinstance(cfg.mlp, Gated)
    mixture = Mixture(
        num_experts=hf["num_local_experts"],
        top_k=hf["num_experts_per_tok"],
        d_ff=cfg.d_ff,
        expert=cfg.mlp,
    )
    spec = patterns.windowed(hf["sliding_window"])
    return dataclasses.replace(cfg, mlp=mixture, groups=(Group(cfg.L, (spec,)),))


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.mlp, Mixture):
        raise ValueError(f"mlp is {cfg.mlp.kind!r}; accepted: 'mixture'")
    return llama.to_hf(dataclasses.replace(cfg, mlp=cfg.mlp.expert)) | {
        "intermediate_size": cfg.mlp.d_ff,
        "sliding_window": patterns.window(cfg.layers),
        "num_local_experts": cfg.mlp.num_experts,
        "num_experts_per_tok": cfg.mlp.top_k,
    }


FAMILIES = (
    Family(
        "mixtral",
        {
            "MixtralForCausalLM": "LanguageModel",
            "MixtralModel": "Encoder",
            **classifiers.score("Mixtral"),
            **classifiers.tags("Mixtral"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
