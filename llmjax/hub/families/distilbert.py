"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108)."""

from typing import Any

from llmjax.config import DenseHead, Learned, ModelConfig
from llmjax.hub.families import bert, classifiers
from llmjax.hub.families.entries import attention, linear, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

LAYER = "distilbert.transformer.layer.{l}"
BLOCK = (
    *attention(*(f"{LAYER}.attention.{i}_lin" for i in ("q", "k", "v", "out"))),
    *norm(f"{LAYER}.sa_layer_norm", "attention_norm"),
    *linear(f"{LAYER}.ffn.lin1", "mlp/up"),
    *linear(f"{LAYER}.ffn.lin2", "mlp/down"),
    *norm(f"{LAYER}.output_layer_norm", "mlp_norm"),
)
ENDS = (
    *bert.embeddings("distilbert."),
    *bert.head("vocab_transform", "vocab_layer_norm"),
    Entry("vocab_projector.weight", "unembedding", "V D -> V D"),
    Entry("vocab_projector.bias", "output_bias", "V -> V"),
    *linear("pre_classifier", "pre_classifier"),
    *linear("classifier", "classifier"),
    *classifiers.TAGGER,
    *classifiers.SPAN_SCORES,
)
NAMES = {  # DistilBERT's keys -> BERT's
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}


def table(cfg: ModelConfig) -> Table:
    ignored = bert.unread("distilbert")
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), ignored, base="distilbert.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    # sinusoids are stored like learned positions, so their key does not matter
    shared = {bert_key: hf[key] for key, bert_key in NAMES.items() if key in hf}
    return bert.encoder(hf | shared | {"type_vocab_size": 0, "layer_norm_eps": 1e-12})


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.positions, Learned):
        raise ValueError(
            f"DistilBERT has learned positions, not {cfg.positions.kind!r}"
        )
    hf = bert.keys(cfg) | {"max_position_embeddings": cfg.positions.max_length}
    names = {bert_key: key for key, bert_key in NAMES.items()}
    dropped = "type_vocab_size", "layer_norm_eps"
    return {names.get(k, k): v for k, v in hf.items() if k not in dropped}


FAMILIES = (
    Family(
        "distilbert",
        {
            "DistilBertForMaskedLM": "LanguageModel",
            "DistilBertModel": "Encoder",
            "DistilBertForSequenceClassification": classifiers.CLASS,
            **classifiers.tags("DistilBert"),
            **classifiers.spans("DistilBert"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.fixed("first", DenseHead("relu")),
        tagger=classifiers.TOKENS,
    ),
)
