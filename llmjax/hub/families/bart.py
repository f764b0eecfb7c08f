"""BART (Lewis et al. 2019, arXiv:1910.13461) and mBART (Liu et al. 2020, 2001.08210).

mBART norms before its sublayers and at the end of a stack, BART after them.
"""

import functools
from typing import Any, Literal

from llmjax.config import Group, LayerNorm, LayerSpec, Learned, ModelConfig, Plain
from llmjax.hub.families import accept, activations, entries
from llmjax.hub.table import Entry, Family, LayerTable, Table

OFFSET = 2  # rows of the table before position 0
SHARED = "model.shared.weight"
COPIES = tuple(
    (f"{name}.weight", SHARED)
    for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
)


def attention(name: str, leaf: str) -> tuple[Entry, ...]:
    """The entries of an attention and its norm."""
    query, key, value, out = (f"{name}.{part}_proj" for part in ("q", "k", "v", "out"))
    return (
        *entries.attention(query, key, value, out, leaf),
        *entries.norm(f"{name}_layer_norm", f"{leaf}_norm"),
    )


def block(stack: str) -> tuple[Entry, ...]:
    """The entries of a layer of the "encoder" or "decoder"."""
    layer = f"model.{stack}.layers.{{l}}"
    return (
        *attention(f"{layer}.self_attn", "attention"),
        *attention(f"{layer}.encoder_attn", "cross_attention"),
        *entries.linear(f"{layer}.fc1", "mlp/up"),
        *entries.linear(f"{layer}.fc2", "mlp/down"),
        *entries.norm(f"{layer}.final_layer_norm", "mlp_norm"),
    )


def ends(stack: str, embedder: str, ours: str) -> tuple[Entry, ...]:
    """The entries of a stack outside of its layers."""
    name = f"model.{stack}"
    return (
        Entry(f"{name}.embed_positions.weight", f"{embedder}/positions", "P D -> P D"),
        *entries.norm(f"{name}.layernorm_embedding", f"{embedder}/norm"),
        *entries.norm(f"{name}.layer_norm", f"{ours}/final_norm"),
    )


def table(cfg: ModelConfig) -> Table:
    encoder, decoder = "transformer/encoder", "transformer/stack"
    entries_once = (
        Entry(SHARED, "transformer/embedder/table", "V D -> V D"),
        Entry("final_logits_bias", "output_bias", "1 V -> V"),
        *ends("encoder", "transformer/encoder_embedder", encoder),
        *ends("decoder", "transformer/embedder", decoder),
    )
    layers = (
        LayerTable(encoder, cfg.encoder_layers, block("encoder")),
        LayerTable(decoder, cfg.layers, block("decoder")),
    )
    ignored = (r"model\.(en|de)coder\.version",)
    return Table(entries_once, layers, ignored, COPIES, base="model.")


def to_config(
    hf: dict[str, Any], norm_position: Literal["pre", "post"] = "post"
) -> ModelConfig:
    """The ModelConfig of config.json.

    Args:
      norm_position: where the family norms: BART "post", mBART "pre".
    """
    accept.only(
        hf,
        is_encoder_decoder=True,
        tie_word_embeddings=True,
        encoder_attention_heads=hf["decoder_attention_heads"],
    )
    d_ff, width = hf["decoder_ffn_dim"], hf["encoder_ffn_dim"]
    spec = LayerSpec(d_ff=None if width == d_ff else width)
    return ModelConfig(
        architecture="encoder_decoder",
        vocab_size=hf["vocab_size"],
        d_model=hf["d_model"],
        d_ff=d_ff,
        groups=(Group(hf["decoder_layers"]),),
        encoder_groups=(Group(hf["encoder_layers"], (spec,)),),
        embedding_norm=True,
        embedding_scale=hf["d_model"] ** 0.5 if hf.get("scale_embedding") else 1.0,
        positions=Learned(hf.get("max_position_embeddings", 1024), OFFSET),
        num_heads=hf["decoder_attention_heads"],
        mlp=Plain(activations.to_config(hf, "activation_function", "gelu")),
        norm=LayerNorm(),
        norm_position=norm_position,
        biases="all",
        output_bias=True,
        dropout=hf.get("dropout", 0.1),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("init_std", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.positions, Learned):
        raise ValueError(f"BART has learned positions, not {cfg.positions.kind!r}")
    return sizes(cfg) | {"max_position_embeddings": cfg.positions.max_length}


def sizes(cfg: ModelConfig) -> dict[str, Any]:
    """The keys that BART and Marian have in common."""
    if not isinstance(cfg.mlp, Plain):
        raise ValueError(f"the MLPs of BART are plain, not {cfg.mlp.kind!r}")
    encoder = cfg.encoder_layers
    return {
        "vocab_size": cfg.vocab_size,
        "d_model": cfg.d_model,
        "encoder_layers": sum(g.repeat * len(g.pattern) for g in encoder),
        "decoder_layers": cfg.L,
        "encoder_attention_heads": cfg.num_heads,
        "decoder_attention_heads": cfg.num_heads,
        "encoder_ffn_dim": cfg.layer_mlp(encoder[0].pattern[0])[1],
        "decoder_ffn_dim": cfg.d_ff,
        "activation_function": activations.to_hf(cfg.mlp.activation),
        "scale_embedding": cfg.embedding_scale != 1,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "init_std": cfg.init_std,
    }


FAMILIES = (
    Family(
        "bart",
        {"BartForConditionalGeneration": "LanguageModel", "BartModel": "Encoder"},
        to_config,
        to_hf,
        table,
    ),
    Family(
        "mbart",
        {"MBartForConditionalGeneration": "LanguageModel", "MBartModel": "Encoder"},
        functools.partial(to_config, norm_position="pre"),
        to_hf,
        table,
    ),
)
