"""gpt-oss (OpenAI 2025, arXiv:2508.10925)."""

import dataclasses
from typing import Any

from llmjax.config import ClampedGated, Gated, Mixture, ModelConfig
from llmjax.hub.families import accept, classifiers, llama, mixtral, patterns
from llmjax.hub.table import Entry, Family, Table

MLP = "model.layers.{l}.mlp"
KERNELS = "mlp/experts/gate/kernel", "mlp/experts/up/kernel"
BIASES = "mlp/experts/gate/bias", "mlp/experts/up/bias"
BLOCK = (
    *llama.NORMS,
    *llama.ATTENTION,
    Entry("model.layers.{l}.self_attn.sinks", "attention/sinks", "N -> N"),
    Entry(f"{MLP}.router.weight", "mlp/router/kernel", "E D -> D E"),
    Entry(f"{MLP}.router.bias", "mlp/router/bias", "E -> E"),
    # gates and ups take turns along the last axis
    Entry(f"{MLP}.experts.gate_up_proj", KERNELS, "E D (F p) -> p E D F"),
    Entry(f"{MLP}.experts.gate_up_proj_bias", BIASES, "E (F p) -> p E F"),
    Entry(f"{MLP}.experts.down_proj", "mlp/experts/down/kernel", "E F D -> E F D"),
    Entry(f"{MLP}.experts.down_proj_bias", "mlp/experts/down/bias", "E D -> E D"),
)
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
DEFAULTS: dict[str, Any] = {  # values of absent keys
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rope_theta": 150_000.0,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "attention_bias": True,
    "swiglu_limit": 7.0,
    "swiglu_alpha": 1.702,
}


def table(cfg: ModelConfig) -> Table:
    return llama.table(cfg, BLOCK)


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.unquantized(hf)
    accept.only(hf, hidden_act="silu")
    hf = DEFAULTS | hf
    if not (hf.get("rope_parameters") or hf.get("rope_scaling")):
        hf["rope_parameters"] = YARN
    cfg = mixtral.to_config(hf | {"attention_bias": None, "sliding_window": None})
    assert isinstance(cfg.mlp, Mixture)
    expert = ClampedGated(hf["swiglu_limit"], hf["swiglu_alpha"])
    specs = {
        patterns.SLIDING: patterns.windowed(hf["sliding_window"]),
        patterns.FULL: patterns.windowed(None),
    }
    types = hf.get("layer_types")
    if types is None:
        types = [(patterns.SLIDING, patterns.FULL)[i % 2] for i in range(cfg.L)]
    return dataclasses.replace(
        cfg,
        groups=patterns.from_types(types, cfg.L, specs),
        sinks=True,
        mlp=dataclasses.replace(cfg.mlp, expert=expert),
        biases="all" if hf["attention_bias"] else "mlp",
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    mlp = cfg.mlp
    if not isinstance(mlp, Mixture) or not isinstance(mlp.expert, ClampedGated):
        raise ValueError(f"mlp is {mlp}; accepted: a mixture of 'clamped_gated'")
    gated = dataclasses.replace(mlp, expert=Gated("silu"))
    return mixtral.to_hf(dataclasses.replace(cfg, mlp=gated)) | {
        "layer_types": patterns.to_types(cfg.layers),
        "swiglu_limit": mlp.expert.limit,
        "swiglu_alpha": mlp.expert.alpha,
    }


FAMILIES = (
    Family(
        "gpt_oss",
        {
            "GptOssForCausalLM": "LanguageModel",
            "GptOssModel": "Encoder",
            **classifiers.score("GptOss"),
            **classifiers.tags("GptOss"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
