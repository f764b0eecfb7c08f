"""OPT (Zhang et al. 2022, arXiv:2205.01068): BART's decoder on its own."""

from typing import Any

from llmjax.config import LayerNorm, Learned, ModelConfig, Plain
from llmjax.hub.families import accept, activations, bart, classifiers
from llmjax.hub.families.entries import norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

BLOCK = bart.block("decoder")
EMBEDDER = "transformer/embedder"
ENDS = (
    Entry("model.decoder.embed_tokens.weight", f"{EMBEDDER}/table", "V D -> V D"),
    Entry(
        "model.decoder.embed_positions.weight", f"{EMBEDDER}/positions", "P D -> P D"
    ),
    *norm("model.decoder.final_layer_norm", "transformer/stack/final_norm"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    classifiers.SCORES,
)


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), base="model.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(
        hf, word_embed_proj_dim=hf["hidden_size"], _remove_final_layer_norm=False
    )
    weighted = hf.get("layer_norm_elementwise_affine", True)
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf["ffn_dim"],
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        positions=Learned(hf.get("max_position_embeddings", 2048), bart.OFFSET),
        mlp=Plain(activations.to_config(hf, "activation_function", "relu")),
        norm=LayerNorm(bias=weighted, scale=weighted),
        norm_position="pre" if hf.get("do_layer_norm_before", True) else "post",
        biases="all" if hf.get("enable_bias", True) else "none",
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=hf.get("dropout", 0.1),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("init_std", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not (isinstance(cfg.positions, Learned) and isinstance(cfg.mlp, Plain)):
        raise ValueError(
            f"positions is {cfg.positions.kind!r} and mlp {cfg.mlp.kind!r}; accepted: "
            "'learned' and 'plain'"
        )
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "word_embed_proj_dim": cfg.d_model,
        "ffn_dim": cfg.d_ff,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.num_heads,
        "max_position_embeddings": cfg.positions.max_length,
        "activation_function": activations.to_hf(cfg.mlp.activation),
        "layer_norm_elementwise_affine": getattr(cfg.norm, "scale", True),
        "do_layer_norm_before": cfg.norm_position == "pre",
        "enable_bias": cfg.biases == "all",
        "tie_word_embeddings": cfg.tie_embeddings,
        "dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "init_std": cfg.init_std,
    }


FAMILIES = (
    Family(
        "opt",
        {
            "OPTForCausalLM": "LanguageModel",
            "OPTModel": "Encoder",
            **classifiers.score("OPT"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
    ),
)
