"""Falcon with rotary positions (Almazrouei et al. 2023, arXiv:2311.16867).

7B has one key head and one norm a layer, 40B and 180B ("new decoder architecture")
groups of heads and two norms.
"""

from typing import Any, Literal

from llmjax.config import LayerNorm, ModelConfig, Plain, Rotary
from llmjax.hub.families import accept, activations, classifiers, rope
from llmjax.hub.families.entries import linear, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

LAYER = "transformer.h.{l}"
Residual = Literal["sequential", "parallel", "parallel_one_norm"]
# names of the norms before attention and MLP
NORMS: dict[Residual, tuple[str, str]] = {
    "parallel": ("ln_attn", "ln_mlp"),
    "parallel_one_norm": ("input_layernorm", ""),
    "sequential": ("input_layernorm", "post_attention_layernorm"),
}
ENDS = (
    Entry(
        "transformer.word_embeddings.weight", "transformer/embedder/table", "V D -> V D"
    ),
    *norm("transformer.ln_f", "transformer/stack/final_norm"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    classifiers.SCORES,
    *classifiers.TAGGER,
)


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, block(cfg))
    return Table(ENDS, (stack,), base="transformer.")


def block(cfg: ModelConfig) -> tuple[Entry, ...]:
    """The entries of a layer: beside each key head lie its queries and its value."""
    fused = f"{LAYER}.self_attention.query_key_value"
    out = f"{LAYER}.self_attention.dense"
    ours = tuple(f"attention/{name}" for name in ("query", "key", "value"))
    group = f"K {cfg.num_heads // cfg.K}"
    kernels = (f"({group} H) D -> D ({group}) H", *("(K H) D -> D K H",) * 2)
    biases = (f"({group} H) -> ({group}) H", *("(K H) -> K H",) * 2)
    before, between = NORMS[cfg.residual]
    return (
        *norm(f"{LAYER}.{before}", "attention_norm"),
        Entry(f"{fused}.weight", tuple(f"{i}/kernel" for i in ours), kernels, "K"),
        Entry(f"{fused}.bias", tuple(f"{i}/bias" for i in ours), biases, "K"),
        Entry(f"{out}.weight", "attention/out/kernel", "D (N H) -> N H D"),
        Entry(f"{out}.bias", "attention/out/bias", "D -> D"),
        *(norm(f"{LAYER}.{between}", "mlp_norm") if between else ()),
        *linear(f"{LAYER}.mlp.dense_h_to_4h", "mlp/up"),
        *linear(f"{LAYER}.mlp.dense_4h_to_h", "mlp/down"),
    )


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, alibi=False)  # transformers rounds its slopes to bfloat16
    heads, new = hf["num_attention_heads"], hf.get("new_decoder_architecture")
    parallel, norms = hf.get("parallel_attn", True), hf.get("num_ln_in_parallel_attn")
    if new:
        accept.only(hf, parallel_attn=True)
        key_heads = hf.get("num_kv_heads") or heads
    else:
        accept.only(hf, num_ln_in_parallel_attn=1)
        key_heads = 1 if hf.get("multi_query", True) else heads
    residual: Residual = "parallel_one_norm" if parallel else "sequential"
    if new and norms != 1:
        residual = "parallel"
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf.get("ffn_hidden_size") or 4 * hf["hidden_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=key_heads,
        positions=rope.whole(rope.to_config(hf)),
        mlp=Plain(activations.to_config(hf, "activation", "gelu")),
        norm=LayerNorm(hf.get("layer_norm_epsilon", 1e-5)),
        residual=residual,
        biases="all" if hf.get("bias") else "none",
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=hf.get("hidden_dropout", 0.0),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not (isinstance(cfg.positions, Rotary) and isinstance(cfg.mlp, Plain)):
        raise ValueError(
            f"positions is {cfg.positions.kind!r} and mlp {cfg.mlp.kind!r}; accepted: "
            "'rotary' and 'plain'"
        )
    new = cfg.residual == "parallel" or cfg.K not in (1, cfg.num_heads)
    norms = {"num_ln_in_parallel_attn": 2 if cfg.residual == "parallel" else 1}
    return (
        rope.whole_to_hf(cfg.positions)
        | {
            "vocab_size": cfg.vocab_size,
            "hidden_size": cfg.d_model,
            "ffn_hidden_size": cfg.d_ff,
            "num_hidden_layers": cfg.L,
            "num_attention_heads": cfg.num_heads,
            "num_kv_heads": cfg.K,
            "alibi": False,
            "new_decoder_architecture": new,
            "multi_query": cfg.K == 1,
            "parallel_attn": cfg.residual != "sequential",
            "activation": activations.to_hf(cfg.mlp.activation),
            "layer_norm_epsilon": cfg.norm.epsilon,
            "bias": cfg.biases == "all",
            "tie_word_embeddings": cfg.tie_embeddings,
            "hidden_dropout": cfg.dropout,
            "attention_dropout": cfg.attention_dropout,
            "initializer_range": cfg.init_std,
        }
        | (norms if new else {})
    )


FAMILIES = (
    Family(
        "falcon",
        {
            "FalconForCausalLM": "LanguageModel",
            "FalconModel": "Encoder",
            **classifiers.score("Falcon"),
            **classifiers.tags("Falcon"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
