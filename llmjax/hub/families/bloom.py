"""BLOOM (BigScience 2022, arXiv:2211.05100): ALiBi, and a norm of the embeddings."""

from typing import Any

from llmjax.config import Alibi, LayerNorm, ModelConfig, Plain
from llmjax.hub.families import accept, classifiers
from llmjax.hub.families.entries import interleaved_block, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

BLOCK = interleaved_block("transformer.h.{l}", "self_attention")
EMBEDDER = "transformer/embedder"
ENDS = (
    Entry("transformer.word_embeddings.weight", f"{EMBEDDER}/table", "V D -> V D"),
    *norm("transformer.word_embeddings_layernorm", f"{EMBEDDER}/norm"),
    *norm("transformer.ln_f", "transformer/stack/final_norm"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    classifiers.SCORES,
    *classifiers.TAGGER,
)


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), base="transformer.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, apply_residual_connection_post_layernorm=False)
    # published files say n_embed and num_attention_heads
    size = hf.get("n_embed") or hf["hidden_size"]
    heads = hf.get("num_attention_heads") or hf["n_head"]
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=size,
        d_ff=4 * size,
        num_layers=hf.get("num_hidden_layers") or hf["n_layer"],
        num_heads=heads,
        embedding_norm=True,
        positions=Alibi(),
        mlp=Plain("gelu_tanh"),
        norm=LayerNorm(hf.get("layer_norm_epsilon", 1e-5)),
        biases="all",
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=hf.get("hidden_dropout", 0.0),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "n_layer": cfg.L,
        "n_head": cfg.num_heads,
        "layer_norm_epsilon": cfg.norm.epsilon,
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "initializer_range": cfg.init_std,
    }


FAMILIES = (
    Family(
        "bloom",
        {
            "BloomForCausalLM": "LanguageModel",
            "BloomModel": "Encoder",
            **classifiers.score("Bloom"),
            **classifiers.tags("Bloom"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
