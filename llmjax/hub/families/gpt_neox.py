"""GPT-NeoX-20B and Pythia (Black et al. 2022, arXiv:2204.06745; 2304.01373)."""

from typing import Any

from llmjax.config import LayerNorm, ModelConfig, Plain, Rotary
from llmjax.hub.families import activations, classifiers, rope
from llmjax.hub.families.entries import interleaved_block, norm
from llmjax.hub.table import Entry, Family, LayerTable, Table

BLOCK = interleaved_block("gpt_neox.layers.{l}", "attention")
ENDS = (
    Entry("gpt_neox.embed_in.weight", "transformer/embedder/table", "V D -> V D"),
    *norm("gpt_neox.final_layer_norm", "transformer/stack/final_norm"),
    Entry("embed_out.weight", "unembedding", "V D -> V D"),
    classifiers.SCORES,
    *classifiers.TAGGER,
)
BUFFERS = r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), (BUFFERS,), base="gpt_neox.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    old = {
        "rope_theta": hf.get("rotary_emb_base", 10_000),
        "partial_rotary_factor": hf.get("rotary_pct", 0.25),
    }
    parallel = hf.get("use_parallel_residual", True)
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        positions=rope.to_config(hf | old),
        mlp=Plain(activations.to_config(hf, "hidden_act", "gelu")),
        norm=LayerNorm(hf.get("layer_norm_eps", 1e-5)),
        residual="parallel" if parallel else "sequential",
        biases="all" if hf.get("attention_bias", True) else "mlp",
        tie_embeddings=hf.get("tie_word_embeddings", False),
        dropout=hf.get("hidden_dropout", 0.0),
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
        "hidden_act": activations.to_hf(cfg.mlp.activation),
        "layer_norm_eps": cfg.norm.epsilon,
        "use_parallel_residual": cfg.residual == "parallel",
        "attention_bias": cfg.biases == "all",
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "initializer_range": cfg.init_std,
    }


FAMILIES = (
    Family(
        "gpt_neox",
        {
            "GPTNeoXForCausalLM": "LanguageModel",
            "GPTNeoXModel": "Encoder",
            **classifiers.score("GPTNeoX"),
            **classifiers.tags("GPTNeoX"),
        },
        to_config,
        to_hf,
        table,
        classifier=classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
