"""GPT-J (Wang & Komatsuzaki 2021): attention and MLP of one normed input."""

import math
from typing import Any

from llmjax.config import LayerNorm, ModelConfig, Plain, Rotary
from llmjax.hub.families import activations, classifiers
from llmjax.hub.families.entries import attention, linear, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

LAYER = "transformer.h.{l}"
BLOCK = (
    *norm(f"{LAYER}.ln_1", "attention_norm"),
    *attention(*(f"{LAYER}.attn.{name}_proj" for name in ("q", "k", "v", "out"))),
    *linear(f"{LAYER}.mlp.fc_in", "mlp/up"),
    *linear(f"{LAYER}.mlp.fc_out", "mlp/down"),
)
ENDS = (
    Entry("transformer.wte.weight", "transformer/embedder/table", "V D -> V D"),
    *norm("transformer.ln_f", "transformer/stack/final_norm"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    Entry("lm_head.bias", "output_bias", "V -> V"),
    classifiers.SCORES,
)
BUFFERS = r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)"


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), (BUFFERS,), base="transformer.")


def fraction(size: int, head: int) -> float:
    """The part of a head that makes `size` of it again: head * part, rounded down."""
    part = size / head
    return part if int(head * part) == size else math.nextafter(part, 1.0)


def to_config(hf: dict[str, Any]) -> ModelConfig:
    head = hf["n_embd"] // hf["n_head"]
    size = hf.get("rotary_dim", 64)
    if not size or not 0 < size <= head:
        raise ValueError(f"rotary_dim is {size}; accepted: 1 to {head}, a head's size")
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["n_embd"],
        d_ff=hf.get("n_inner") or 4 * hf["n_embd"],
        num_layers=hf["n_layer"],
        num_heads=hf["n_head"],
        positions=Rotary(fraction=fraction(size, head), interleaved=True),
        mlp=Plain(activations.to_config(hf, "activation_function", "gelu_new")),
        norm=LayerNorm(hf.get("layer_norm_epsilon", 1e-5)),
        residual="parallel_one_norm",
        biases="mlp",
        output_bias=True,
        tie_embeddings=hf.get("tie_word_embeddings", False),
        dropout=hf.get("resid_pdrop", 0.0),
        attention_dropout=hf.get("attn_pdrop", 0.0),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not (isinstance(cfg.positions, Rotary) and isinstance(cfg.mlp, Plain)):
        raise ValueError(
            f"positions is {cfg.positions.kind!r} and mlp {cfg.mlp.kind!r}; accepted: "
            "'rotary' and 'plain'"
        )
    return {
        "vocab_size": cfg.vocab_size,
        "n_embd": cfg.d_model,
        "n_inner": cfg.d_ff,
        "n_layer": cfg.L,
        "n_head": cfg.num_heads,
        "n_positions": 2048,  # transformers' table of angles; ours has no end
        "rotary_dim": cfg.rotary_dim(cfg.positions),
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
        "gptj",
        {
            "GPTJForCausalLM": "LanguageModel",
            "GPTJModel": "Encoder",
            **classifiers.score("GPTJ"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
    ),
)
