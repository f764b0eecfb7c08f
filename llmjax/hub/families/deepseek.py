"""DeepSeek-V3 and R1 (DeepSeek-AI 2024, arXiv:2412.19437)."""

import dataclasses
import math
from typing import Any

from llmjax.config import (
    BalanceBias,
    Gated,
    Group,
    Latent,
    LayerSpec,
    Mixture,
    ModelConfig,
    Rotary,
    ScaledDot,
    SigmoidRouter,
)
from llmjax.hub.families import accept, classifiers, llama, patterns
from llmjax.hub.table import Entry, Family, Table

ATTENTION, MLP = "model.layers.{l}.self_attn", "model.layers.{l}.mlp"
BLOCK = (
    *llama.NORMS,
    Entry(f"{ATTENTION}.q_proj.weight", "attention/query/kernel", "(N H) D -> D N H"),
    Entry(f"{ATTENTION}.q_a_proj.weight", "attention/query_down/kernel", "R D -> D R"),
    Entry(f"{ATTENTION}.q_a_layernorm.weight", "attention/query_norm/scale", "R -> R"),
    Entry(f"{ATTENTION}.q_b_proj.weight", "attention/query/kernel", "(N H) R -> R N H"),
    Entry(
        f"{ATTENTION}.kv_a_proj_with_mqa.weight",
        "attention/latent_down/kernel",
        "R D -> D R",
    ),
    Entry(
        f"{ATTENTION}.kv_a_layernorm.weight", "attention/latent_norm/scale", "R -> R"
    ),
    Entry(
        f"{ATTENTION}.kv_b_proj.weight",
        "attention/key_value/kernel",
        "(N H) R -> R N H",
    ),
    Entry(f"{ATTENTION}.o_proj.weight", "attention/out/kernel", "D (N H) -> N H D"),
    *llama.MLP,
    Entry(f"{MLP}.gate.weight", "mlp/router/kernel", "E D -> D E"),
    Entry(f"{MLP}.gate.e_score_correction_bias", "mlp/balance", "E -> E"),
    *(
        Entry(f"{MLP}.{theirs}.{name}_proj.weight", f"mlp/{ours}/{name}/kernel", axes)
        for theirs, ours in (("experts.{e}", "experts"), ("shared_experts", "shared"))
        for name, axes in (
            ("gate", "F D -> D F"),
            ("up", "F D -> D F"),
            ("down", "D F -> F D"),
        )
    ),
)
EPSILON = 1e-6  # of the latents' norms at the hub, whatever the other norms have
DEFAULTS: dict[str, Any] = {  # values of absent keys
    "q_lora_rank": 1536,
    "first_k_dense_replace": 3,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rope_interleave": True,
}


def table(cfg: ModelConfig) -> Table:
    unlike = "q_proj" if getattr(cfg.heads, "query_rank", None) else "q_b_proj"
    block = tuple(e for e in BLOCK if f".{unlike}." not in e.name)
    base = llama.table(cfg, block)
    # the modules that predict the tokens after the next lie behind the last layer
    ignored = (*base.ignored, rf"model\.layers\.{cfg.L}\..*")
    return dataclasses.replace(base, ignored=ignored)


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.unquantized(hf)
    accept.only(
        hf,
        attention_bias=False,
        moe_layer_freq=1,
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        num_key_value_heads=hf["num_attention_heads"],
    )
    hf = DEFAULTS | hf
    rotary_dim, plain_dim = hf["qk_rope_head_dim"], hf["qk_nope_head_dim"]
    cfg = llama.to_config(hf | {"head_dim": rotary_dim})
    assert isinstance(cfg.mlp, Gated) and isinstance(cfg.positions, Rotary)
    dense = min(hf["first_k_dense_replace"], cfg.L)
    counts = (dense, LayerSpec(mlp=cfg.mlp)), (cfg.L - dense, LayerSpec())
    return dataclasses.replace(
        cfg,
        groups=tuple(Group(count, (spec,)) for count, spec in counts if count),
        head_dim=plain_dim,
        heads=Latent(
            query_rank=hf["q_lora_rank"],
            rank=hf["kv_lora_rank"],
            rotary_dim=rotary_dim,
            value_dim=hf["v_head_dim"],
            norm_epsilon=None if cfg.norm.epsilon == EPSILON else EPSILON,
        ),
        scores=scores(cfg.positions, plain_dim + rotary_dim),
        positions=dataclasses.replace(cfg.positions, interleaved=hf["rope_interleave"]),
        mlp=Mixture(
            num_experts=hf["n_routed_experts"],
            top_k=hf["num_experts_per_tok"],
            d_ff=hf["moe_intermediate_size"],
            shared_d_ff=hf["moe_intermediate_size"] * hf["n_shared_experts"],
            expert=cfg.mlp,
            router=SigmoidRouter(
                groups=hf["n_group"] or 1,
                top_groups=hf["topk_group"] or 1,
                normalize=hf["norm_topk_prob"],
                scale=float(hf["routed_scaling_factor"]),
            ),
            balance=BalanceBias(),
        ),
    )


def scores(positions: Rotary, size: int) -> ScaledDot:
    """Scale of the scores: 1 / sqrt(size), times YaRN's factor by `mscale_all_dim`."""
    weight = getattr(positions.scaling, "mscale_all_dim", None)
    factor = getattr(positions.scaling, "factor", 1.0)
    if not weight or factor <= 1:
        return ScaledDot()
    return ScaledDot(size**-0.5 * (0.1 * weight * math.log(factor) + 1) ** 2)


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    heads, positions, mlp = cfg.heads, cfg.positions, cfg.mlp
    if not (
        isinstance(heads, Latent)
        and isinstance(positions, Rotary)
        and isinstance(mlp, Mixture)
        and isinstance(mlp.router, SigmoidRouter)
    ):
        raise ValueError(
            f"heads, positions and mlp are {heads.kind!r}, {positions.kind!r} and "
            f"{mlp.kind!r}; accepted: 'latent', 'rotary' and 'mixture' with a "
            "'sigmoid' router"
        )
    halves = dataclasses.replace(positions, interleaved=False)
    dense = [spec.mlp is not None for spec in patterns.layers(cfg.layers)]
    return llama.to_hf(dataclasses.replace(cfg, mlp=mlp.expert, positions=halves)) | {
        "head_dim": heads.rotary_dim,
        "q_lora_rank": heads.query_rank,
        "kv_lora_rank": heads.rank,
        "qk_nope_head_dim": cfg.H,
        "qk_rope_head_dim": heads.rotary_dim,
        "v_head_dim": heads.value_dim,
        "rope_interleave": positions.interleaved,
        "first_k_dense_replace": sum(dense),
        "moe_intermediate_size": mlp.d_ff,
        "n_routed_experts": mlp.num_experts,
        "n_shared_experts": mlp.shared_d_ff // mlp.d_ff,
        "num_experts_per_tok": mlp.top_k,
        "n_group": mlp.router.groups,
        "topk_group": mlp.router.top_groups,
        "norm_topk_prob": mlp.router.normalize,
        "routed_scaling_factor": mlp.router.scale,
        "num_nextn_predict_layers": 0,
    }


FAMILIES = (
    Family(
        "deepseek_v3",
        {
            "DeepseekV3ForCausalLM": "LanguageModel",
            "DeepseekV3Model": "Encoder",
            **classifiers.score("DeepseekV3"),
            **classifiers.tags("DeepseekV3"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
