"""Phi-1, 1.5 and 2 (Gunasekar et al. 2023, arXiv:2306.11644; 2309.05463)."""

from typing import Any

from llmjax.config import LayerNorm, ModelConfig, Plain, Rotary
from llmjax.hub.families import activations, classifiers, rope
from llmjax.hub.families.entries import attention, linear, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

LAYER = "model.layers.{l}"
ATTENTION = f"{LAYER}.self_attn"
BLOCK = (
    *norm(f"{LAYER}.input_layernorm", "attention_norm"),
    *attention(
        *(f"{ATTENTION}.{name}" for name in ("q_proj", "k_proj", "v_proj", "dense"))
    ),
    *(
        Entry(
            f"{ATTENTION}.{name}_layernorm.{theirs}",
            f"attention/{ours}_norm/{leaf}",
            "H -> H",
        )
        for name, ours in (("q", "query"), ("k", "key"))
        for theirs, leaf in (("weight", "scale"), ("bias", "bias"))
    ),
    *linear(f"{LAYER}.mlp.fc1", "mlp/up"),
    *linear(f"{LAYER}.mlp.fc2", "mlp/down"),
)
ENDS = (
    Entry("model.embed_tokens.weight", "transformer/embedder/table", "V D -> V D"),
    *norm("model.final_layernorm", "transformer/stack/final_norm"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    Entry("lm_head.bias", "output_bias", "V -> V"),
    classifiers.SCORES,
    *classifiers.TAG_SCORES,
)


def table(cfg: ModelConfig) -> Table:
    buffers = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), (buffers,), base="model.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        num_kv_heads=hf.get("num_key_value_heads"),
        positions=rope.to_config({"partial_rotary_factor": 0.5} | hf),
        qk_norm="head" if hf.get("qk_layernorm") else "none",
        mlp=Plain(activations.to_config(hf, "hidden_act", "gelu_new")),
        norm=LayerNorm(hf.get("layer_norm_eps", 1e-5)),
        residual="parallel_one_norm",
        biases="all",
        output_bias=True,
        tie_embeddings=hf.get("tie_word_embeddings", False),
        dropout=hf.get("resid_pdrop", 0.0),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not (isinstance(cfg.positions, Rotary) and isinstance(cfg.mlp, Plain)):
        raise ValueError(
            f"positions is {cfg.positions.kind!r} and mlp {cfg.mlp.kind!r}; accepted: "
            "'rotary' and 'plain'"
        )
    rotary = rope.to_hf(cfg.positions)
    # not the default here, so always said
    rotary["rope_parameters"]["partial_rotary_factor"] = cfg.positions.fraction
    return rotary | {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "intermediate_size": cfg.d_ff,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.K,
        "qk_layernorm": cfg.qk_norm == "head",
        "hidden_act": activations.to_hf(cfg.mlp.activation),
        "layer_norm_eps": cfg.norm.epsilon,
        "tie_word_embeddings": cfg.tie_embeddings,
        "resid_pdrop": cfg.dropout,
        "embd_pdrop": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "initializer_range": cfg.init_std,
    }


FAMILIES = (
    Family(
        "phi",
        {
            "PhiForCausalLM": "LanguageModel",
            "PhiModel": "Encoder",
            **classifiers.score("Phi"),
            **classifiers.tags("Phi"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
