"""BERT (Devlin et al. 2018, arXiv:1810.04805) and its nearest kin.

RoBERTa (Liu et al. 2019, 1907.11692), and as it XLM-R (1911.02116) and CamemBERT
(1911.03894); ELECTRA (Clark et al. 2020, 2003.10555).
"""

import dataclasses
from typing import Any

from llmjax.config import (
    DenseHead,
    LayerNorm,
    Learned,
    ModelConfig,
    Plain,
    PoolerHead,
    Transformed,
)
from llmjax.hub.families import accept, activations, classifiers
from llmjax.hub.families.entries import attention, linear, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

# --- shared by BERT's descendants ----------------------------------------------------


def embeddings(base: str) -> tuple[Entry, ...]:
    """The entries of the embeddings under `base`, and of their norm."""
    tables = ("word", "table"), ("position", "positions"), ("token_type", "token_types")
    return (
        *(
            Entry(
                f"{base}embeddings.{theirs}_embeddings.weight",
                f"transformer/embedder/{ours}",
                "V D -> V D",
            )
            for theirs, ours in tables
        ),
        *norm(f"{base}embeddings.LayerNorm", "transformer/embedder/norm"),
    )


def block(base: str, projection: str = "") -> tuple[Entry, ...]:
    """The entries of a layer; `projection` ends the names of query, key and value."""
    layer = f"{base}encoder.layer.{{l}}."
    own = f"{layer}attention.self"
    return (
        *attention(
            f"{own}.query{projection}",
            f"{own}.key{projection}",
            f"{own}.value{projection}",
            f"{layer}attention.output.dense",
        ),
        *norm(f"{layer}attention.output.LayerNorm", "attention_norm"),
        *linear(f"{layer}intermediate.dense", "mlp/up"),
        *linear(f"{layer}output.dense", "mlp/down"),
        *norm(f"{layer}output.LayerNorm", "mlp_norm"),
    )


def head(dense: str, after: str) -> tuple[Entry, ...]:
    """The entries of a masked language model's head, up to its output table."""
    return *linear(dense, "head/transform"), *norm(after, "head/norm")


def decoder(cfg: ModelConfig, table: str, bias: str) -> tuple[Entry, ...]:
    """The entries of the output table, `table`.weight, and of its bias.

    transformers reads `table`.bias, and with tied embeddings writes `bias`.
    """
    return (
        Entry(f"{table}.weight", "unembedding", "V D -> V D"),
        Entry(bias if cfg.tie_embeddings else f"{table}.bias", "output_bias", "V -> V"),
    )


def again(cfg: ModelConfig, table: str, bias: str) -> dict[str, Any]:
    """`Table.copies` and `repeats` of the output's bias, for `decoder`'s arguments."""
    names = f"{table}.bias", bias
    if cfg.tie_embeddings:
        return {"copies": (names,)}
    return {"repeats": (names[::-1],)}


def unread(base: str) -> tuple[str, ...]:
    """Regular expressions of names that files carry and nothing reads.

    Args:
      base: prefix of the bare model's names.
    """
    buffers = rf"{base}\.embeddings\.(position_ids|token_type_ids)"
    return buffers, rf"{base}\.pooler\.(dense\.)?(weight|bias)"


def encoder(hf: dict[str, Any], **changes: Any) -> ModelConfig:
    """The ModelConfig of BERT's config.json, but for `changes`.

    Raises:
      ValueError: a key asks for what we can't do.
    """
    accept.only(
        hf,
        is_decoder=False,
        add_cross_attention=False,
        position_embedding_type="absolute",
    )
    activation = activations.to_config(hf, "hidden_act", "gelu")
    cfg = ModelConfig(
        architecture="encoder",
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        token_types=hf.get("type_vocab_size", 2),
        embedding_norm=True,
        positions=Learned(hf.get("max_position_embeddings", 512)),
        mlp=Plain(activation),
        norm=LayerNorm(hf.get("layer_norm_eps", 1e-12)),
        norm_position="post",
        biases="all",
        output=Transformed(activation),
        output_bias=True,
        tie_embeddings=hf.get("tie_word_embeddings", True),
        dropout=float(hf.get("hidden_dropout_prob", 0.1)),
        attention_dropout=float(hf.get("attention_probs_dropout_prob", 0.1)),
        init_std=hf.get("initializer_range", 0.02),
    )
    return dataclasses.replace(cfg, **changes)


def keys(cfg: ModelConfig) -> dict[str, Any]:
    """The keys of BERT's config.json: the reverse of `encoder`.

    Raises:
      ValueError: no `Plain` feed-forward.
    """
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "intermediate_size": cfg.d_ff,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.num_heads,
        "hidden_act": activations.to_hf(plain(cfg).activation),
        "type_vocab_size": cfg.token_types,
        "layer_norm_eps": cfg.norm.epsilon,
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_dropout_prob": cfg.dropout,
        "attention_probs_dropout_prob": cfg.attention_dropout,
        "initializer_range": cfg.init_std,
    }


def absolute(cfg: ModelConfig) -> dict[str, Any]:
    """`keys` of a model with learned positions, from their first row on.

    Raises:
      ValueError: other positions; or no token types, without which transformers fails.
    """
    if not isinstance(cfg.positions, Learned) or not cfg.token_types:
        raise ValueError(
            "this family has learned positions and token types, not "
            f"{cfg.positions.kind!r} and {cfg.token_types}"
        )
    longest = cfg.positions.max_length + cfg.positions.offset
    return keys(cfg) | {"max_position_embeddings": longest}


def plain(cfg: ModelConfig) -> Plain:
    """The feed-forward of a config, which must be `Plain`.

    Raises:
      ValueError: another feed-forward.
    """
    if not isinstance(cfg.mlp, Plain):
        raise ValueError(f"this family has a plain mlp, not {cfg.mlp.kind!r}")
    return cfg.mlp


def causal(hf: dict[str, Any]) -> dict[str, Any]:
    """Changes of `encoder` for a model that sees what came before, by `is_decoder`.

    Raises:
      ValueError: a masked language model that does.
    """
    if not hf.get("is_decoder"):
        return {}
    for name in hf.get("architectures") or ():
        if name.endswith(("MaskedLM", "PreTraining")):
            raise ValueError(f"is_decoder is True; accepted: False of {name}")
    return {"architecture": "decoder"}


def causal_keys(cfg: ModelConfig) -> dict[str, Any]:
    """The key of a causal model."""
    return {"is_decoder": True} if cfg.architecture == "decoder" else {}


# --- BERT ----------------------------------------------------------------------------

POOLER = linear("bert.pooler.dense", "pooler")
PREDICTIONS = "cls.predictions"
COPIES = f"{PREDICTIONS}.decoder", f"{PREDICTIONS}.bias"
TRANSFORM = f"{PREDICTIONS}.transform"
RENAMED = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)


def bert_table(cfg: ModelConfig) -> Table:
    entries = (
        *embeddings("bert."),
        *POOLER,
        *head(f"{TRANSFORM}.dense", f"{TRANSFORM}.LayerNorm"),
        *decoder(cfg, *COPIES),
        *linear("classifier", "classifier"),
        *classifiers.TAGGER,
        *classifiers.SPAN_SCORES,
        *classifiers.CHOICE_SCORES,
    )
    stack = LayerTable("transformer/stack", cfg.layers, block("bert."))
    ignored = *unread("bert"), r"cls\.seq_relationship\.(weight|bias)"
    return Table(
        entries,
        (stack,),
        ignored,
        base="bert.",
        renamed=RENAMED,
        **again(cfg, *COPIES),
    )


def bert_config(hf: dict[str, Any]) -> ModelConfig:
    changes = causal(hf)
    return encoder(hf | {"is_decoder": False}, pooler=True, **changes)


def bert_hf(cfg: ModelConfig) -> dict[str, Any]:
    return absolute(cfg) | causal_keys(cfg)


# --- RoBERTa -------------------------------------------------------------------------

ROBERTA_COPIES = "lm_head.decoder", "lm_head.bias"


def roberta_table(cfg: ModelConfig) -> Table:
    entries = (
        *embeddings("roberta."),
        *linear("roberta.pooler.dense", "pooler"),
        *head("lm_head.dense", "lm_head.layer_norm"),
        *decoder(cfg, *ROBERTA_COPIES),
        *linear("classifier.dense", "pre_classifier"),
        *linear("classifier.out_proj", "classifier"),
        *classifiers.TAGGER,
        *classifiers.SPAN_SCORES,
        *classifiers.CHOICE_SCORES,
    )
    stack = LayerTable("transformer/stack", cfg.layers, block("roberta."))
    more = again(cfg, *ROBERTA_COPIES)
    return Table(entries, (stack,), unread("roberta"), base="roberta.", **more)


def roberta_config(hf: dict[str, Any]) -> ModelConfig:
    # padding has the position of its own token, the first token the next one
    padding, longest = hf.get("pad_token_id", 1), hf.get("max_position_embeddings", 512)
    if padding is None or not 0 <= padding < longest - 1:
        raise ValueError(
            f"pad_token_id is {padding} and max_position_embeddings {longest}; "
            "positions start after the row of pad_token_id"
        )
    positions = Learned(longest - padding - 1, offset=padding + 1)
    changes = {"positions": positions, "output": Transformed("gelu")} | causal(hf)
    return encoder(hf | {"is_decoder": False}, pooler=True, **changes)


def roberta_hf(cfg: ModelConfig) -> dict[str, Any]:
    hf = absolute(cfg)
    assert isinstance(cfg.positions, Learned)
    if not cfg.positions.offset:
        raise ValueError("RoBERTa's positions have an offset of at least 1, not 0")
    return hf | {"pad_token_id": cfg.positions.offset - 1} | causal_keys(cfg)


def roberta(name: str, prefix: str) -> Family:
    """RoBERTa, or a family that has its names: `prefix` begins those of its classes."""
    classes = {
        f"{prefix}ForMaskedLM": "LanguageModel",
        f"{prefix}ForCausalLM": "LanguageModel",
        f"{prefix}Model": "Encoder",
        f"{prefix}ForSequenceClassification": classifiers.CLASS,
        **classifiers.tags(prefix),
        **classifiers.spans(prefix),
        **classifiers.choices(prefix),
    }
    return Family(
        name,
        classes,
        roberta_config,
        roberta_hf,
        roberta_table,
        classifier=classifiers.fixed("first", DenseHead("tanh")),
        tagger=classifiers.TOKENS,
    )


# --- ELECTRA -------------------------------------------------------------------------


def electra_table(cfg: ModelConfig) -> Table:
    generator, discriminator = "generator_predictions", "discriminator_predictions"
    entries = (
        *embeddings("electra."),
        *linear("electra.embeddings_project", "transformer/embedder/projection"),
        *head(f"{generator}.dense", f"{generator}.LayerNorm"),
        Entry("generator_lm_head.weight", "unembedding", "V D -> V D"),
        Entry("generator_lm_head.bias", "output_bias", "V -> V"),
        *linear(f"{discriminator}.dense", "dense"),
        *linear(f"{discriminator}.dense_prediction", "prediction"),
        *linear("classifier.dense", "pre_classifier"),
        *linear("classifier.out_proj", "classifier"),
        *classifiers.TAGGER,
        *classifiers.SPAN_SCORES,
    )
    stack = LayerTable("transformer/stack", cfg.layers, block("electra."))
    return Table(entries, (stack,), unread("electra"), base="electra.")


def electra_config(hf: dict[str, Any]) -> ModelConfig:
    size = hf.get("embedding_size", 128)
    return encoder(
        hf,
        embedding_size=None if size == hf["hidden_size"] else size,
        output=Transformed("gelu"),  # the generator's, whatever hidden_act says
    )


def electra_hf(cfg: ModelConfig) -> dict[str, Any]:
    return absolute(cfg) | {"embedding_size": cfg.embedding_size or cfg.d_model}


FAMILIES = (
    Family(
        "bert",
        {
            "BertForMaskedLM": "LanguageModel",
            "BertForPreTraining": "LanguageModel",
            "BertLMHeadModel": "LanguageModel",
            "BertModel": "Encoder",
            "BertForSequenceClassification": classifiers.CLASS,
            **classifiers.tags("Bert"),
            **classifiers.spans("Bert"),
            **classifiers.choices("Bert"),
        },
        bert_config,
        bert_hf,
        bert_table,
        classifier=classifiers.fixed("first", PoolerHead()),
        tagger=classifiers.TOKENS,
    ),
    roberta("roberta", "Roberta"),
    roberta("xlm-roberta", "XLMRoberta"),
    roberta("camembert", "Camembert"),
    Family(
        "electra",
        {
            "ElectraForPreTraining": "Discriminator",
            "ElectraForMaskedLM": "LanguageModel",
            "ElectraModel": "Encoder",
            "ElectraForSequenceClassification": classifiers.CLASS,
            **classifiers.tags("Electra"),
            **classifiers.spans("Electra"),
        },
        electra_config,
        electra_hf,
        electra_table,
        # gelu, whatever hidden_act says
        classifier=classifiers.fixed("first", DenseHead("gelu")),
        tagger=classifiers.TOKENS,
    ),
)
