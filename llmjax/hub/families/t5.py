"""T5 (Raffel et al. 2019, arXiv:1910.10683), its 1.1, Flan-T5 and mT5 (2010.11934).

T5 1.0 ties its embeddings and scales what meets them; 1.1 and later do neither. umT5
(2304.09151) has relative biases of each layer's own. Encoders stand alone, too.
"""

import dataclasses
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
    bias = f"{stack}.block.{{l}}.{BIAS}"  # umT5's
    return (
        *attention(f"{layer}.0.SelfAttention", "attention"),
        Entry(bias, "attention/bias_table", "X N -> X N"),
        *(cross if mlp == 2 else ()),
        Entry(f"{dense}.wi_0.weight", "mlp/gate/kernel", "F D -> D F"),
        Entry(f"{dense}.wo.weight", "mlp/down/kernel", "D F -> F D"),
        Entry(f"{layer}.{mlp}.layer_norm.weight", "mlp_norm/scale", "D -> D"),
    )


BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def ends(stack: str, ours: str) -> tuple[Entry, ...]:
    """The entries of a stack outside of its layers."""
    return (
        Entry(f"{stack}.block.0.{BIAS}", f"{ours}/relative/bias_table", "X N -> X N"),
        Entry(f"{stack}.final_layer_norm.weight", f"{ours}/final_norm/scale", "D -> D"),
    )


def table(cfg: ModelConfig) -> Table:
    up = "wi_1" if isinstance(cfg.mlp, Gated) else "wi"

    def layers(stack, ours, groups, mlp):
        name = f"{stack}.block.{{l}}.layer.{mlp}.DenseReluDense.{up}.weight"
        entry = Entry(name, "mlp/up/kernel", "F D -> D F")
        return LayerTable(ours, groups, (*block(stack, mlp), entry))

    if cfg.architecture == "encoder":
        stacks = [("encoder", "transformer/stack", cfg.layers, 1)]
    else:
        stacks = [
            ("encoder", "transformer/encoder", cfg.encoder_layers, 1),
            ("decoder", "transformer/stack", cfg.layers, 2),
        ]
    entries = (
        Entry(SHARED, "transformer/embedder/table", "V D -> V D"),
        Entry("lm_head.weight", "unembedding", "V D -> V D"),
        *(entry for name, ours, *_ in stacks for entry in ends(name, ours)),
    )
    # in the first files, without effect
    bias = r"EncDecAttention\.relative_attention_bias\.weight"
    ignored = (rf"decoder\.block\.0\.layer\.1\.{bias}",)
    copies = tuple((f"{s}.embed_tokens.weight", SHARED) for s in ("encoder", "decoder"))
    return Table(entries, tuple(layers(*s) for s in stacks), ignored, copies)


def to_config(hf: dict[str, Any], scales: bool = True) -> ModelConfig:
    """The ModelConfig of config.json.

    Args:
      scales: whether tied embeddings mean a scaled output: in all but mT5.
    """
    alone = any(name.endswith("EncoderModel") for name in hf.get("architectures") or ())
    if not alone:  # many a lone encoder's file says the same as its whole model's
        accept.only(hf, is_encoder_decoder=True)
    kind = hf.get("feed_forward_proj", "relu" if scales else "gated-gelu")
    if kind not in MLPS:
        raise ValueError(f"feed_forward_proj is {kind!r}; accepted: {', '.join(MLPS)}")
    count = hf.get("num_decoder_layers") or hf["num_layers"]
    tied = hf.get("tie_word_embeddings", True)
    scaled = hf.get("scale_decoder_outputs", tied) if scales else False
    return ModelConfig(
        architecture="encoder" if alone else "encoder_decoder",
        vocab_size=hf["vocab_size"],
        d_model=hf["d_model"],
        d_ff=hf["d_ff"],
        groups=(Group(hf["num_layers"] if alone else count),),
        encoder_groups=() if alone else (Group(hf["num_layers"]),),
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
    alone = cfg.architecture == "encoder"
    encoder = cfg.layers if alone else cfg.encoder_layers
    return {
        "vocab_size": cfg.vocab_size,
        "d_model": cfg.d_model,
        "d_kv": cfg.H,
        "d_ff": cfg.d_ff,
        "num_layers": sum(g.repeat * len(g.pattern) for g in encoder),
        "num_decoder_layers": cfg.L,
        "num_heads": cfg.num_heads,
        "layer_norm_epsilon": cfg.norm.epsilon,
        "relative_attention_num_buckets": cfg.positions.buckets,
        "relative_attention_max_distance": cfg.positions.max_distance,
        "feed_forward_proj": kinds[0],
        "is_encoder_decoder": not alone,
        "tie_word_embeddings": cfg.tie_embeddings,
        "decoder_start_token_id": 0,
        "dropout_rate": cfg.dropout,
    } | scaled


def umt5_config(hf: dict[str, Any]) -> ModelConfig:
    scaled = {"scale_decoder_outputs": hf.get("tie_word_embeddings", True)}
    cfg = to_config({"feed_forward_proj": "gated-gelu"} | hf | scaled)
    assert isinstance(cfg.positions, RelativeBias)
    own = dataclasses.replace(cfg.positions, per_layer=True)
    return dataclasses.replace(cfg, positions=own)


def umt5_hf(cfg: ModelConfig) -> dict[str, Any]:
    return to_hf(cfg, scales=False)


def classes(prefix: str) -> dict[str, str]:
    """A family's architectures, whose names `prefix` begins."""
    return {
        f"{prefix}ForConditionalGeneration": "LanguageModel",
        f"{prefix}Model": "Encoder",
        f"{prefix}EncoderModel": "Encoder",
    }


FAMILIES = (
    Family("t5", classes("T5"), to_config, to_hf, table),
    Family(
        "mt5",
        classes("MT5"),
        functools.partial(to_config, scales=False),
        functools.partial(to_hf, scales=False),
        table,
    ),
    Family("umt5", classes("UMT5"), umt5_config, umt5_hf, table),
)
