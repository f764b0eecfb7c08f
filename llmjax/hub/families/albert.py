"""ALBERT (Lan et al. 2019, arXiv:1909.11942): one layer repeated, small embeddings."""

from collections import Counter
from typing import Any

from llmjax.config import Group, LayerSpec, ModelConfig, PoolerHead
from llmjax.hub.families import bert, classifiers
from llmjax.hub.families.entries import attention, linear, norm
from llmjax.hub.table import Family, LayerTable, Table

LAYER = "albert.encoder.albert_layer_groups.{g}.albert_layers.{i}"
BLOCK = (
    *attention(*(f"{LAYER}.attention.{i}" for i in ("query", "key", "value", "dense"))),
    *norm(f"{LAYER}.attention.LayerNorm", "attention_norm"),
    *linear(f"{LAYER}.ffn", "mlp/up"),
    *linear(f"{LAYER}.ffn_output", "mlp/down"),
    *norm(f"{LAYER}.full_layer_layer_norm", "mlp_norm"),
)
PROJECTION = "albert.encoder.embedding_hidden_mapping_in"
COPIES = "predictions.decoder", "predictions.bias"


def table(cfg: ModelConfig) -> Table:
    entries = (
        *bert.embeddings("albert."),
        *linear(PROJECTION, "transformer/embedder/projection"),
        *linear("albert.pooler", "pooler"),
        *bert.head("predictions.dense", "predictions.LayerNorm"),
        *bert.decoder(cfg, *COPIES),
        *linear("classifier", "classifier"),
        *classifiers.TAGGER,
        *classifiers.SPAN_SCORES,
        *classifiers.CHOICE_SCORES,
    )
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    more = bert.again(cfg, *COPIES)
    return Table(entries, (stack,), bert.unread("albert"), base="albert.", **more)


def to_config(hf: dict[str, Any]) -> ModelConfig:
    defaults = {
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return bert.encoder(
        defaults | hf,
        groups=_groups(hf),
        embedding_size=hf.get("embedding_size", 128),
        pooler=True,
    )


def _groups(hf: dict[str, Any]) -> tuple[Group, ...]:
    """The groups, each of which repeats its own weights."""
    layers, groups = hf["num_hidden_layers"], hf.get("num_hidden_groups") or 1
    if groups > layers:
        raise ValueError(
            f"num_hidden_groups is {groups}; accepted: at most the {layers} layers"
        )
    # transformers: layer i is of group int(i / (layers / groups))
    repeats = Counter(int(i / (layers / groups)) for i in range(layers))
    pattern = (LayerSpec(),) * (hf.get("inner_group_num") or 1)
    return tuple(Group(repeats[g], pattern, shared=True) for g in range(groups))


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if cfg.embedding_size is None:
        raise ValueError("embedding_size is None; ALBERT always projects")
    return bert.absolute(cfg) | {
        "embedding_size": cfg.embedding_size,
        "num_hidden_layers": sum(group.repeat for group in cfg.layers),
        "num_hidden_groups": len(cfg.layers),
        "inner_group_num": len(cfg.layers[0].pattern),
    }


FAMILIES = (
    Family(
        "albert",
        {
            "AlbertForMaskedLM": "LanguageModel",
            "AlbertModel": "Encoder",
            "AlbertForSequenceClassification": classifiers.CLASS,
            **classifiers.tags("Albert"),
            **classifiers.spans("Albert"),
            **classifiers.choices("Albert"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.fixed("first", PoolerHead()),
        tagger=classifiers.TOKENS,
    ),
)
