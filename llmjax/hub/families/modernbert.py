"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): local and global layers."""

import dataclasses
from typing import Any, Literal

from llmjax.config import (
    Gated,
    LayerNorm,
    LayerSpec,
    ModelConfig,
    NormedHead,
    Rotary,
    SlidingWindow,
    Transformed,
)
from llmjax.hub.families import activations, bert, classifiers, patterns, rope
from llmjax.hub.families.entries import linear, norm
from llmjax.hub.table import (
    Classification,
    Classifier,
    Entry,
    Family,
    LayerTable,
    Table,
)

LAYER = "model.layers.{l}"
QKV = "attention/query", "attention/key", "attention/value"
GATED = "mlp/gate", "mlp/up"
BLOCK = (
    *norm(f"{LAYER}.attn_norm", "attention_norm"),
    Entry(
        f"{LAYER}.attn.Wqkv.weight",
        tuple(f"{leaf}/kernel" for leaf in QKV),
        "(p N H) D -> p D N H",
    ),
    Entry(
        f"{LAYER}.attn.Wqkv.bias",
        tuple(f"{leaf}/bias" for leaf in QKV),
        "(p N H) -> p N H",
    ),
    Entry(f"{LAYER}.attn.Wo.weight", "attention/out/kernel", "D (N H) -> N H D"),
    Entry(f"{LAYER}.attn.Wo.bias", "attention/out/bias", "D -> D"),
    *norm(f"{LAYER}.mlp_norm", "mlp_norm"),
    Entry(
        f"{LAYER}.mlp.Wi.weight",
        tuple(f"{leaf}/kernel" for leaf in GATED),
        "(p F) D -> p D F",
    ),
    Entry(
        f"{LAYER}.mlp.Wi.bias", tuple(f"{leaf}/bias" for leaf in GATED), "(p F) -> p F"
    ),
    *linear(f"{LAYER}.mlp.Wo", "mlp/down"),
)
ENDS = (
    Entry(
        "model.embeddings.tok_embeddings.weight",
        "transformer/embedder/table",
        "V D -> V D",
    ),
    *norm("model.embeddings.norm", "transformer/embedder/norm"),
    *norm("model.final_norm", "transformer/stack/final_norm"),
    *bert.head("head.dense", "head.norm"),
    Entry("decoder.weight", "unembedding", "V D -> V D"),
    Entry("decoder.bias", "output_bias", "V -> V"),
    *linear("classifier", "classifier"),
    *classifiers.TAGGER,
)
THETA = {patterns.FULL: 160_000.0, patterns.SLIDING: 10_000.0}
BIASES: dict[
    tuple[bool, bool], Literal["none", "attention", "mlp", "all"]
] = {  # (attention_bias, mlp_bias) -> ours
    (False, False): "none",
    (True, False): "attention",
    (False, True): "mlp",
    (True, True): "all",
}


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), base="model.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    count, types = hf["num_hidden_layers"], hf.get("layer_types")
    if types is None:
        every = hf.get("global_attn_every_n_layers", 3)
        types = [patterns.SLIDING if i % every else patterns.FULL for i in range(count)]
    positions = {kind: _positions(hf, kind) for kind in THETA}
    # the hub's window has two sides, the token itself in between
    window = SlidingWindow(hf.get("local_attention", 128) // 2 + 1)
    specs = {
        patterns.FULL: LayerSpec(),
        patterns.SLIDING: LayerSpec(window, positions=positions[patterns.SLIDING]),
    }
    groups = patterns.from_types(types, count, specs)
    layers = patterns.layers(groups)
    activation = activations.to_config(hf, "classifier_activation", "gelu")
    biases = bool(hf.get("attention_bias")), bool(hf.get("mlp_bias"))
    return ModelConfig(
        architecture="encoder",
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf["intermediate_size"],
        num_layers=count,
        groups=patterns.groups([*map(_unnormed, layers[:1]), *layers[1:]]),
        num_heads=hf["num_attention_heads"],
        embedding_norm=True,
        positions=positions[patterns.FULL],
        mlp=Gated(activations.to_config(hf, "hidden_activation", "gelu")),
        norm=LayerNorm(hf.get("norm_eps", 1e-5), hf.get("norm_bias", False)),
        biases=BIASES[biases],
        output=Transformed(activation, hf.get("classifier_bias", False)),
        output_bias=hf.get("decoder_bias", True),
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=hf.get("mlp_dropout", 0.0),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("initializer_range", 0.02),
    )


def _unnormed(spec: LayerSpec) -> LayerSpec:
    """The first layer, without a norm of its own: the embeddings are normed."""
    return dataclasses.replace(spec, attention_norm=False)


def _positions(hf: dict[str, Any], kind: str) -> Rotary:
    """The positions of one type of layer, from the keys of today or of the first
    release."""
    old = {patterns.FULL: "global_rope_theta", patterns.SLIDING: "local_rope_theta"}
    by_kind = hf.get("rope_parameters") or {}
    keys = {
        # of both, as transformers mixes them
        "rope_parameters": (by_kind.get(kind) or {}) | (hf.get("rope_scaling") or {}),
        "max_position_embeddings": hf.get("max_position_embeddings", 8192),
    }
    return rope.whole(rope.to_config(keys, hf.get(old[kind]) or THETA[kind]))


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    types, window = patterns.to_types(cfg.layers), patterns.window(cfg.layers) or 1
    if not isinstance(cfg.positions, Rotary) or not isinstance(cfg.mlp, Gated):
        raise ValueError(
            "ModernBERT has rotary positions and a gated mlp, not "
            f"{cfg.positions.kind!r} and {cfg.mlp.kind!r}"
        )
    rotary = rope.whole_to_hf(cfg.positions)
    rotaries = {patterns.FULL: rotary["rope_parameters"]} | {
        kind: rope.whole_to_hf(spec.positions)["rope_parameters"]
        for kind, spec in zip(types, patterns.layers(cfg.layers), strict=True)
        if isinstance(spec.positions, Rotary)
    }
    biased = {ours: flags for flags, ours in BIASES.items()}
    if cfg.biases not in biased:
        raise ValueError(
            f"biases is {cfg.biases!r}; ModernBERT has {', '.join(biased)}"
        )
    attention, mlp = biased[cfg.biases]
    return (
        rotary
        | {
            "rope_parameters": rotaries,
            "vocab_size": cfg.vocab_size,
            "hidden_size": cfg.d_model,
            "intermediate_size": cfg.d_ff,
            "num_hidden_layers": cfg.L,
            "num_attention_heads": cfg.num_heads,
            "layer_types": patterns.to_types(cfg.layers),
            "local_attention": 2 * (window - 1),
            "hidden_activation": activations.to_hf(cfg.mlp.activation),
            "norm_eps": cfg.norm.epsilon,
            "norm_bias": isinstance(cfg.norm, LayerNorm) and cfg.norm.bias,
            "attention_bias": attention,
            "mlp_bias": mlp,
            "decoder_bias": cfg.output_bias,
            "tie_word_embeddings": cfg.tie_embeddings,
            "mlp_dropout": cfg.dropout,
            "attention_dropout": cfg.attention_dropout,
            "initializer_range": cfg.init_std,
            "pad_token_id": None,  # the default is the published vocabulary's
        }
        | _head(cfg)
    )


def _head(cfg: ModelConfig) -> dict[str, Any]:
    """The keys of the masked language model's head."""
    if not isinstance(cfg.output, Transformed):
        return {}  # a bare model has none
    return {
        "classifier_activation": activations.to_hf(cfg.output.activation),
        "classifier_bias": cfg.output.bias,
    }


POOLING: dict[str, Literal["first", "mean"]] = {"cls": "first", "mean": "mean"}


def classification(hf: dict[str, Any]) -> Classification:
    pooling = hf.get("classifier_pooling", "cls")
    if pooling not in POOLING:
        raise ValueError(
            f"classifier_pooling is {pooling!r}; accepted: {', '.join(POOLING)}"
        )
    activation = activations.to_config(hf, "classifier_activation", "gelu")
    form = NormedHead(activation, hf.get("classifier_bias", False))
    return Classification(POOLING[pooling], form)


def classification_keys(own: Classification) -> dict[str, Any]:
    form = own.form if isinstance(own.form, NormedHead) else NormedHead()
    accepted = [Classification(pooling, form) for pooling in POOLING.values()]
    classifiers.refuse_others(own, *accepted)
    return {
        "classifier_pooling": "cls" if own.pooling == "first" else "mean",
        "classifier_activation": activations.to_hf(form.activation),
        "classifier_bias": form.bias,
    }


def tagging(hf: dict[str, Any]) -> Classification:
    return classification(hf)._replace(pooling="none")


def tagging_keys(own: Classification) -> dict[str, Any]:
    """The keys of a head, which is not pooled."""
    form = own.form if isinstance(own.form, NormedHead) else NormedHead()
    classifiers.refuse_others(own, Classification("none", form))
    return classification_keys(Classification("first", form))


FAMILIES = (
    Family(
        "modernbert",
        {
            "ModernBertForMaskedLM": "LanguageModel",
            "ModernBertModel": "Encoder",
            "ModernBertForSequenceClassification": classifiers.CLASS,
            **classifiers.tags("ModernBert"),
        },
        to_config,
        to_hf,
        table,
        classifier=Classifier(classification, classification_keys),
        tagger=Classifier(tagging, tagging_keys),
    ),
)
