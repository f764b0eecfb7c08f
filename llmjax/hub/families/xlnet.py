"""XLNet (Yang et al. 2019, arXiv:1906.08237)."""

from typing import Any

from llmjax.config import LayerNorm, ModelConfig, Plain, TransformerXL
from llmjax.hub.families import accept, activations, bert
from llmjax.hub.families.entries import linear, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

LAYER = "transformer.layer.{l}"
SELF = f"{LAYER}.rel_attn"
BLOCK = (
    Entry(f"{SELF}.q", "attention/query/kernel", "D N H -> D N H"),
    Entry(f"{SELF}.k", "attention/key/kernel", "D N H -> D N H"),
    Entry(f"{SELF}.v", "attention/value/kernel", "D N H -> D N H"),
    Entry(f"{SELF}.o", "attention/out/kernel", "D N H -> N H D"),
    Entry(f"{SELF}.r", "attention/relative/kernel", "D N H -> D N H"),
    Entry(f"{SELF}.r_w_bias", "attention/content_bias", "N H -> N H"),
    Entry(f"{SELF}.r_r_bias", "attention/position_bias", "N H -> N H"),
    Entry(f"{SELF}.r_s_bias", "attention/segment_bias", "N H -> N H"),
    Entry(f"{SELF}.seg_embed", "attention/segments", "2 N H -> 2 N H"),
    *norm(f"{SELF}.layer_norm", "attention_norm"),
    *linear(f"{LAYER}.ff.layer_1", "mlp/up"),
    *linear(f"{LAYER}.ff.layer_2", "mlp/down"),
    *norm(f"{LAYER}.ff.layer_norm", "mlp_norm"),
)
ENDS = (
    Entry(
        "transformer.word_embedding.weight", "transformer/embedder/table", "V D -> V D"
    ),
    Entry("transformer.mask_emb", "transformer/query_stream", "1 1 D -> D"),
    Entry("lm_loss.weight", "unembedding", "V D -> V D"),
    Entry("lm_loss.bias", "output_bias", "V -> V"),
)


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), base="transformer.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.only(hf, attn_type="bi", bi_data=False, clamp_len=-1, untie_r=True)
    return ModelConfig(
        architecture="encoder",
        vocab_size=hf["vocab_size"],
        d_model=hf["d_model"],
        d_ff=hf["d_inner"],
        num_layers=hf["n_layer"],
        num_heads=hf["n_head"],
        head_dim=hf.get("d_head"),
        positions=TransformerXL(segments=True),
        mlp=Plain(activations.to_config(hf, "ff_activation", "gelu")),
        norm=LayerNorm(hf.get("layer_norm_eps", 1e-12)),
        norm_position="post",
        biases="mlp",
        output_bias=True,
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=hf.get("dropout", 0.1),
        attention_dropout=hf.get("dropout", 0.1),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if cfg.H * cfg.num_heads != cfg.d_model:
        raise ValueError(
            f"d_model={cfg.d_model} is not num_heads={cfg.num_heads} x head_dim={cfg.H}"
            ", as XLNet's class wants it"
        )
    return {
        "vocab_size": cfg.vocab_size,
        "d_model": cfg.d_model,
        "d_inner": cfg.d_ff,
        "n_layer": cfg.L,
        "n_head": cfg.num_heads,
        "d_head": cfg.H,
        "ff_activation": activations.to_hf(bert.plain(cfg).activation),
        "layer_norm_eps": cfg.norm.epsilon,
        "tie_word_embeddings": cfg.tie_embeddings,
        "dropout": cfg.dropout,
        "initializer_range": cfg.init_std,
    }


FAMILIES = (
    Family(
        "xlnet",
        {"XLNetLMHeadModel": "LanguageModel", "XLNetModel": "Encoder"},
        to_config,
        to_hf,
        table,
    ),
)
