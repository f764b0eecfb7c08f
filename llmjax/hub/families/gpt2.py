"""GPT-2 (Radford et al. 2019). Its linear weights are [in, out], as ours are."""

from typing import Any

from llmjax.config import Dot, LayerNorm, Learned, ModelConfig, Plain, ScaledDot
from llmjax.hub.families import accept, activations, classifiers
from llmjax.hub.families.entries import norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

LAYER = "transformer.h.{l}"
QKV = ("attention/query", "attention/key", "attention/value")
BLOCK = (
    *norm(f"{LAYER}.ln_1", "attention_norm"),
    Entry(
        f"{LAYER}.attn.c_attn.weight",
        tuple(f"{leaf}/kernel" for leaf in QKV),
        "D (p N H) -> p D N H",
    ),
    Entry(
        f"{LAYER}.attn.c_attn.bias",
        tuple(f"{leaf}/bias" for leaf in QKV),
        "(p N H) -> p N H",
    ),
    Entry(f"{LAYER}.attn.c_proj.weight", "attention/out/kernel", "(N H) D -> N H D"),
    Entry(f"{LAYER}.attn.c_proj.bias", "attention/out/bias", "D -> D"),
    *norm(f"{LAYER}.ln_2", "mlp_norm"),
    Entry(f"{LAYER}.mlp.c_fc.weight", "mlp/up/kernel", "D F -> D F"),
    Entry(f"{LAYER}.mlp.c_fc.bias", "mlp/up/bias", "F -> F"),
    Entry(f"{LAYER}.mlp.c_proj.weight", "mlp/down/kernel", "F D -> F D"),
    Entry(f"{LAYER}.mlp.c_proj.bias", "mlp/down/bias", "D -> D"),
)
ENDS = (
    Entry("transformer.wte.weight", "transformer/embedder/table", "V D -> V D"),
    Entry("transformer.wpe.weight", "transformer/embedder/positions", "P D -> P D"),
    *norm("transformer.ln_f", "transformer/stack/final_norm"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    classifiers.SCORES,
    *classifiers.TAGGER,
)


def table(cfg: ModelConfig) -> Table:
    buffers = r"transformer\.h\.\d+\.attn\.(masked_)?bias"
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), (buffers,), base="transformer.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["n_embd"],
        d_ff=hf.get("n_inner") or 4 * hf["n_embd"],
        num_layers=hf["n_layer"],
        num_heads=hf["n_head"],
        positions=Learned(hf["n_positions"]),
        scores=ScaledDot() if hf.get("scale_attn_weights", True) else Dot(),
        mlp=Plain(activations.to_config(hf, "activation_function", "gelu_new")),
        norm=LayerNorm(hf.get("layer_norm_epsilon", 1e-5)),
        biases="all",
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=hf.get("resid_pdrop", 0.1),
        attention_dropout=hf.get("attn_pdrop", 0.1),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not (isinstance(cfg.positions, Learned) and isinstance(cfg.mlp, Plain)):
        raise ValueError(
            f"positions is {cfg.positions.kind!r} and mlp {cfg.mlp.kind!r}; accepted: "
            "'learned' and 'plain'"
        )
    return {
        "vocab_size": cfg.vocab_size,
        "n_embd": cfg.d_model,
        "n_inner": cfg.d_ff,
        "n_layer": cfg.L,
        "n_head": cfg.num_heads,
        "n_positions": cfg.positions.max_length,
        "scale_attn_weights": isinstance(cfg.scores, ScaledDot),
        "activation_function": activations.to_hf(cfg.mlp.activation),
        "layer_norm_epsilon": cfg.norm.epsilon,
        "tie_word_embeddings": cfg.tie_embeddings,
        "resid_pdrop": cfg.dropout,
        "embd_pdrop": cfg.dropout,
        "attn_pdrop": cfg.attention_dropout,
        "initializer_range": cfg.init_std,
    }


FAMILIES = (
    Family(
        "gpt2",
        {
            "GPT2LMHeadModel": "LanguageModel",
            "GPT2Model": "Encoder",
            **classifiers.score("GPT2"),
            **classifiers.tags("GPT2"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
