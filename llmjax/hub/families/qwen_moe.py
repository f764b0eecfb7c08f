"""Mixtures of Qwen 1.5, 2 and 3 (arXiv:2407.10671; 2505.09388)."""

import dataclasses
from typing import Any

from llmjax.config import Gated, LayerSpec, Mixture, ModelConfig, SoftmaxRouter
from llmjax.hub.families import classifiers, llama, patterns, qwen
from llmjax.hub.families.entries import linear
from llmjax.hub.table import Entry, Family, Table

MLP = "model.layers.{l}.mlp"
PROJECTIONS = "gate", "up", "down"
MIXTURE = (
    Entry(f"{MLP}.gate.weight", "mlp/router/kernel", "E D -> D E"),
    *(
        entry
        for name in PROJECTIONS
        for entry in (
            *linear(f"{MLP}.experts.{{e}}.{name}_proj", f"mlp/experts/{name}"),
            *linear(f"{MLP}.shared_expert.{name}_proj", f"mlp/shared/{name}"),
        )
    ),
    Entry(f"{MLP}.shared_expert_gate.weight", "mlp/shared_gate/kernel", "1 D -> D 1"),
)
DEFAULTS: dict[str, Any] = {  # values of absent keys
    "decoder_sparse_step": 1,
    "norm_topk_prob": False,
    "sliding_window": 4096,
}
DEFAULTS_2 = DEFAULTS | {
    "num_key_value_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "max_window_layers": 28,
    "qkv_bias": True,
}
DEFAULTS_3 = DEFAULTS | {
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}


def table_2(cfg: ModelConfig) -> Table:
    return llama.table(cfg, (*llama.BLOCK, *MIXTURE))


def table_3(cfg: ModelConfig) -> Table:
    return llama.table(cfg, (*qwen.BLOCK_3, *MIXTURE))


def _to_config(hf: dict[str, Any], types: list[str], **shared: Any) -> ModelConfig:
    """The ModelConfig that both generations have in common.

    Args:
      hf: config.json, with its defaults.
      types: a layer's kind of attention, one by one.
      shared: fields of the mixtures' shared expert.
    """
    cfg = llama.to_config(hf | {"mlp_bias": False})
    assert isinstance(cfg.mlp, Gated)
    window = hf["sliding_window"] if hf.get("use_sliding_window") else None
    kinds = {patterns.FULL: LayerSpec(), patterns.SLIDING: patterns.windowed(window)}
    dense, every = set(hf.get("mlp_only_layers") or ()), hf["decoder_sparse_step"]
    specs = patterns.layers(patterns.from_types(types, cfg.L, kinds))
    for i, spec in enumerate(specs):
        if i in dense or (i + 1) % every:
            specs[i] = dataclasses.replace(spec, mlp=cfg.mlp)
    return dataclasses.replace(
        cfg,
        groups=patterns.groups(specs),
        mlp=Mixture(
            num_experts=hf["num_experts"],
            top_k=hf["num_experts_per_tok"],
            d_ff=hf["moe_intermediate_size"],
            expert=cfg.mlp,
            router=SoftmaxRouter(hf["norm_topk_prob"]),
            **shared,
        ),
    )


def to_config_2(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS_2 | hf
    sliding = hf["max_window_layers"] if hf.get("use_sliding_window") else 0
    types = hf.get("layer_types") or [
        patterns.FULL if i % 2 or i >= sliding else patterns.SLIDING
        for i in range(hf["num_hidden_layers"])
    ]
    cfg = _to_config(
        hf | {"attention_bias": False},
        types,
        shared_d_ff=hf["shared_expert_intermediate_size"],
        shared_gate=True,
    )
    return dataclasses.replace(cfg, biases="qkv" if hf["qkv_bias"] else "none")


def to_config_3(hf: dict[str, Any]) -> ModelConfig:
    if "num_local_experts" in hf:  # as transformers 5 writes it
        hf = {"num_experts": hf["num_local_experts"]} | hf
    hf = DEFAULTS_3 | hf
    kind = patterns.SLIDING if hf.get("use_sliding_window") else patterns.FULL
    cfg = _to_config(hf, [kind] * hf["num_hidden_layers"])
    return dataclasses.replace(cfg, qk_norm="head")


def to_hf_3(cfg: ModelConfig) -> dict[str, Any]:
    mlp, window = cfg.mlp, patterns.window(cfg.layers)
    if not isinstance(mlp, Mixture) or not isinstance(mlp.router, SoftmaxRouter):
        raise ValueError(f"mlp is {mlp}; accepted: a mixture with a 'softmax' router")
    specs = patterns.layers(cfg.layers)
    return llama.to_hf(dataclasses.replace(cfg, mlp=mlp.expert)) | {
        "num_experts": mlp.num_experts,
        "num_experts_per_tok": mlp.top_k,
        "moe_intermediate_size": mlp.d_ff,
        "norm_topk_prob": mlp.router.normalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, s in enumerate(specs) if s.mlp is not None],
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


def to_hf_2(cfg: ModelConfig) -> dict[str, Any]:
    hf = to_hf_3(cfg)
    assert isinstance(cfg.mlp, Mixture)
    return hf | {
        "shared_expert_intermediate_size": cfg.mlp.shared_d_ff,
        "layer_types": patterns.to_types(cfg.layers),
        "qkv_bias": cfg.biases == "qkv",
    }


FAMILIES = (
    Family(
        "qwen2_moe",
        {
            "Qwen2MoeForCausalLM": "LanguageModel",
            "Qwen2MoeModel": "Encoder",
            **classifiers.score("Qwen2Moe"),
            **classifiers.tags("Qwen2Moe"),
        },
        to_config_2,
        to_hf_2,
        table_2,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
    Family(
        "qwen3_moe",
        {
            "Qwen3MoeForCausalLM": "LanguageModel",
            "Qwen3MoeModel": "Encoder",
            **classifiers.score("Qwen3Moe"),
            **classifiers.tags("Qwen3Moe"),
        },
        to_config_3,
        to_hf_3,
        table_3,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
