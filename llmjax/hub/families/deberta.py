"""DeBERTa v3 (He et al. 2021, arXiv:2111.09543), whose model_type is v2's."""

from typing import Any

from llmjax.config import DenseHead, Disentangled, ModelConfig, ScaledDot
from llmjax.hub.families import accept, activations, bert, classifiers
from llmjax.hub.families.entries import linear, norm
from llmjax.hub.table import (
    Classification,
    Classifier,
    Entry,
    Family,
    LayerTable,
    Table,
)

RELATIVE = "transformer/stack/relative"
TRANSFORM = "cls.predictions.transform"
COPIES = "cls.predictions.decoder", "cls.predictions.bias"
RENAMED = (  # the heads of `legacy` false, as in v3's own files
    (r"^lm_predictions\.lm_head\.(dense|LayerNorm)\.", rf"{TRANSFORM}.\1."),
    (r"^lm_predictions\.lm_head\.bias$", "cls.predictions.bias"),
)
BLOCK = bert.block("deberta.", projection="_proj")
DEFAULTS: dict[str, Any] = {  # transformers' where a key is absent
    "relative_attention": False,
    "position_biased_input": True,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "pos_att_type": "none",
    "position_buckets": -1,
    "max_relative_positions": -1,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}


def table(cfg: ModelConfig) -> Table:
    entries = (
        *bert.embeddings("deberta."),
        Entry(
            "deberta.encoder.rel_embeddings.weight", f"{RELATIVE}/table", "V D -> V D"
        ),
        *norm("deberta.encoder.LayerNorm", f"{RELATIVE}/norm"),
        *bert.head(f"{TRANSFORM}.dense", f"{TRANSFORM}.LayerNorm"),
        *bert.decoder(cfg, *COPIES),
        *linear("pooler.dense", "pre_classifier"),
        *linear("classifier", "classifier"),
        *classifiers.TAGGER,
        *classifiers.SPAN_SCORES,
    )
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    ignored = *bert.unread("deberta"), r"mask_predictions\..*"
    return Table(
        entries,
        (stack,),
        ignored,
        base="deberta.",
        renamed=RENAMED,
        **bert.again(cfg, *COPIES),
    )


def to_config(hf: dict[str, Any]) -> ModelConfig:
    hf = DEFAULTS | hf
    H = hf["hidden_size"] // hf["num_attention_heads"]
    accept.only(
        hf,
        relative_attention=True,
        position_biased_input=False,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        conv_kernel_size=0,
        embedding_size=hf["hidden_size"],
        attention_head_size=H,
    )
    kinds = hf["pos_att_type"] or "none"
    if sorted(kinds.split("|") if isinstance(kinds, str) else kinds) != ["c2p", "p2c"]:
        raise ValueError(f"pos_att_type is {kinds!r}; accepted: 'p2c|c2p'")
    span, longest = hf["position_buckets"], hf["max_relative_positions"]
    if span < 2:
        raise ValueError(f"position_buckets is {span}; accepted: at least 2")
    if longest < 1:
        longest = hf["max_position_embeddings"]
    return bert.encoder(
        hf,
        positions=Disentangled(span, longest),
        scores=ScaledDot((3 * H) ** -0.5),  # three terms make up a score
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.positions, Disentangled):
        raise ValueError(
            f"DeBERTa has disentangled positions, not {cfg.positions.kind!r}"
        )
    return bert.keys(cfg) | {
        "relative_attention": True,
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": cfg.positions.span,
        "max_relative_positions": cfg.positions.max_distance,
        "max_position_embeddings": cfg.positions.max_distance,
    }


def classification(hf: dict[str, Any]) -> Classification:
    accept.only(hf, pooler_hidden_size=hf["hidden_size"])
    key = "pooler_hidden_act"
    if hf.get(key) == "tanh":
        return Classification("first", DenseHead("tanh"))
    return Classification("first", DenseHead(activations.to_config(hf, key, "gelu")))


def classification_keys(own: Classification) -> dict[str, Any]:
    form = own.form
    if not isinstance(form, DenseHead):
        form = DenseHead("gelu")
    classifiers.refuse_others(own, Classification("first", form))
    act = form.activation
    return {"pooler_hidden_act": act if act == "tanh" else activations.to_hf(act)}


FAMILIES = (
    Family(
        "deberta-v2",
        {
            "DebertaV2ForMaskedLM": "LanguageModel",
            "DebertaV2Model": "Encoder",
            "DebertaV2ForSequenceClassification": classifiers.CLASS,
            **classifiers.tags("DebertaV2"),
            **classifiers.spans("DebertaV2"),
        },
        to_config,
        to_hf,
        table,
        classifier=Classifier(classification, classification_keys),
        tagger=classifiers.TOKENS,
    ),
)
