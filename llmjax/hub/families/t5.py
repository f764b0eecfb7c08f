"""T5 (Raffel et al. 2019, arXiv:1910.10683), its 1.1, Flan-T5 and mT5 (2010.11934).

T5 1.0 ties its embeddings and scales what meets them; 1.1 and later do neither.
"""

import functools
from typing import Any

from llmjax.config import (
    Dot,
    Gated,
    Group,
    ModelConfig,
    Plain,
    RelativeBias,
    RMSNorm,
)
from llmjax.hub.families import accept
from llmjax.hub.table import Entry, Family, LayerTable, Table

SHARED = "shared.weight"
MLPS: dict[str, Plain | Gated] = {  # by `feed_forward_proj`
    "relu": Plain("relu"),
    "gelu": Plain("gelu"),
    "silu": Plain("silu"),
    "gated-gelu": Gated("gelu_tanh"),
    "gated-relu": Gated("relu"),
    "gated-silu": Gated("silu"),
}


def attention(prefix: str, ours: str) -> tuple[Entry, ...]:
    return (
        *(
            Entry(f"{prefix}.{theirs}.weight", f"{ours}/{name}/kernel", pattern)
            for theirs, name, pattern in (
                ("q", "query", "(N H) D -> D N H"),
                ("k", "key", "(N H) D -> D N H"),
                ("v", "value", "(N H) D -> D N H"),
                ("o", "out", "D (N H) -> N H D"),
            )
        ),
        Entry(
            f"{prefix.rpartition('.')[0]}.layer_norm.weight",
            f"{ours}_norm/scale",
            "D -> D",
        ),
    )


def block(stack: str, mlp: int) -> tuple[Entry, ...]:
    """The entries of a layer whose sublayer number `mlp` is the feed-forward."""
    layer = f"{stack}.block.{{l}}.layer"
    cross = attention(f"{layer}.1.EncDecAttention", "cross_attention")
    dense = f"{layer}.{mlp}.DenseReluDense"
    return (
        *attention(f"{layer}.0.SelfAttention", "attention"),
        *(cross if mlp == 2 else ()),
        Entry(f"{dense}.wi_0.weight", "mlp/gate/kernel", "F D -> D F"),
        Entry(f"{dense}.wo.weight", "mlp/down/kernel", "D F -> F D"),
        Entry(f"{layer}.{mlp}.layer_norm.weight", "mlp_norm/scale", "D -> D"),
    )


def ends(stack: str, ours: str) -> tuple[Entry, ...]:
    """The entries of a stack outside of its layers."""
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return (
        Entry(f"{stack}.{bias}", f"{ours}/relative/bias_table", "X N -> X N"),
        Entry(f"{stack}.final_layer_norm.weight", f"{ours}/final_norm/scale", "D -> D"),
    )


def table(cfg: ModelConfig) -> Table:
    up = "wi_1" if isinstance(cfg.mlp, Gated) else "wi"

    def layers(stack, ours, groups, mlp):
        name = f"{stack}.block.{{l}}.layer.{mlp}.DenseReluDense.{up}.weight"
        entry = Entry(name, "mlp/up/kernel", "F D -> D F")
        return LayerTable(ours, groups, (*block(stack, mlp), entry))

    entries = (
        Entry(SHARED, "transformer/embedder/table", "V D -> V D"),
        Entry("lm_head.weight", "unembedding", "V D -> V D"),
        *ends("encoder", "transformer/encoder"),
        *ends("decoder", "transformer/stack"),
    )
    stacks = (
        layers("encoder", "transformer/encoder", cfg.encoder_layers, 1),
        layers("decoder", "transformer/stack", cfg.layers, 2),
    )
    # in the first files, without effect
    bias = r"EncDecAttention\.relative_attention_bias\.weight"
    ignored = (rf"decoder\.block\.0\.layer\.1\.{bias}",)
    copies = tuple((f"{s}.embed_tokens.weight", SHARED) for s in ("encoder", "decoder"))
    return Table(entries, stacks, ignored, copies)


def to_config(hf: dict[str, Any], scales: bool = True) -> ModelConfig:
    """The ModelConfig of config.json.

    Args:
      scales: whether tied embeddings mean a scaled output: in all but mT5.
    """
    accept.only(hf, is_encoder_decoder=True)
    kind = hf.get("feed_forward_proj", "relu" if scales else "gated-gelu")
    if kind not in MLPS:
        raise ValueError(f"feed_forward_proj is {kind!r}; accepted: {', '.join(MLPS)}")
    count = hf.get("num_decoder_layers") or hf["num_layers"]
    tied = hf.get("tie_word_embeddings", True)
    scaled = hf.get("scale_decoder_outputs", tied) if scales else False
    return ModelConfig(
        architecture="encoder_decoder",
        vocab_size=hf["vocab_size"],
        d_model=hf["d_model"],
        d_ff=hf["d_ff"],
        groups=(Group(count),),
        encoder_groups=(Group(hf["num_layers"]),),
        num_heads=hf["num_heads"],
        head_dim=hf["d_kv"],
        norm=RMSNorm(hf.get("layer_norm_epsilon", 1e-6)),
        positions=RelativeBias(
            hf.get("relative_attention_num_buckets", 32),
            hf.get("relative_attention_max_distance", 128),
        ),
        scores=Dot(),
        mlp=MLPS[kind],
        tie_embeddings=tied,
        output_scale=hf["d_model"] ** -0.5 if scaled else 1.0,
        dropout=hf.get("dropout_rate", 0.1),
        attention_dropout=hf.get("dropout_rate", 0.1),
    )


def to_hf(cfg: ModelConfig, scales: bool = True) -> dict[str, Any]:
    kinds = [kind for kind, mlp in MLPS.items() if mlp == cfg.mlp]
    if not kinds or not isinstance(cfg.positions, RelativeBias):
        raise ValueError(
            f"T5 has relative biases and one of the feed-forwards {', '.join(MLPS)}, "
            f"not {cfg.positions.kind!r} and {cfg.mlp}"
        )
    scaled = {"scale_decoder_outputs": cfg.output_scale != 1} if scales else {}
    return {
        "vocab_size": cfg.vocab_size,
        "d_model": cfg.d_model,
        "d_kv": cfg.H,
        "d_ff": cfg.d_ff,
        "num_layers": sum(g.repeat * len(g.pattern) for g in cfg.encoder_layers),
        "num_decoder_layers": cfg.L,
        "num_heads": cfg.num_heads,
        "layer_norm_epsilon": cfg.norm.epsilon,
        "relative_attention_num_buckets": cfg.positions.buckets,
        "relative_attention_max_distance": cfg.positions.max_distance,
        "feed_forward_proj": kinds[0],
        "is_encoder_decoder": True,
        "tie_word_embeddings": cfg.tie_embeddings,
        "decoder_start_token_id": 0,
        "dropout_rate": cfg.dropout,
    } | scaled


FAMILIES = (
    Family(
        "t5",
        {"T5ForConditionalGeneration": "LanguageModel", "T5Model": "Encoder"},
        to_config,
        to_hf,
        table,
    ),
    Family(
        "mt5",
        {"MT5ForConditionalGeneration": "LanguageModel", "MT5Model": "Encoder"},
        functools.partial(to_config, scales=False),
        functools.partial(to_hf, scales=False),
        table,
    ),
)
