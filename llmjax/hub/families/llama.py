"""Llama 1 to 3.x (Touvron et al. 2023, arXiv:2302.13971; 2307.09288; 2407.21783)."""

from typing import Any, Literal

from llmjax.config import Gated, ModelConfig, RMSNorm, Rotary
from llmjax.hub.families import accept, activations, classifiers, llama_gguf, rope
from llmjax.hub.families.entries import attention, linear
from llmjax.hub.table import Entry, Family, Gguf, LayerTable, Table

LAYER = "model.layers.{l}"
NORMS = (
    Entry(f"{LAYER}.input_layernorm.weight", "attention_norm/scale", "D -> D"),
    Entry(f"{LAYER}.post_attention_layernorm.weight", "mlp_norm/scale", "D -> D"),
)
ATTENTION = attention(*(f"{LAYER}.self_attn.{name}_proj" for name in "qkvo"))
MLP = (
    *linear(f"{LAYER}.mlp.gate_proj", "mlp/gate"),
    *linear(f"{LAYER}.mlp.up_proj", "mlp/up"),
    *linear(f"{LAYER}.mlp.down_proj", "mlp/down"),
)
BLOCK = (*NORMS, *ATTENTION, *MLP)
ENDS = (
    Entry("model.embed_tokens.weight", "transformer/embedder/table", "V D -> V D"),
    Entry("model.norm.weight", "transformer/stack/final_norm/scale", "D -> D"),
    Entry("lm_head.weight", "unembedding", "V D -> V D"),
    classifiers.SCORES,
    *classifiers.TAG_SCORES,
)
BIASES: dict[tuple[bool, bool], Literal["none", "attention", "mlp", "all"]] = {
    (False, False): "none",
    (True, False): "attention",
    (False, True): "mlp",
    (True, True): "all",
}


def table(cfg: ModelConfig, block: tuple[Entry, ...] = BLOCK) -> Table:
    buffers = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    stack = LayerTable("transformer/stack", cfg.layers, block)
    return Table(ENDS, (stack,), (buffers,), base="model.")


def to_config(hf: dict[str, Any]) -> ModelConfig:
    accept.unquantized(hf)
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        d_model=hf["hidden_size"],
        d_ff=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        num_kv_heads=hf.get("num_key_value_heads"),
        head_dim=hf.get("head_dim"),
        norm=RMSNorm(hf.get("rms_norm_eps", 1e-6)),
        positions=rope.whole(rope.to_config(hf)),
        mlp=Gated(activations.to_config(hf, "hidden_act", "silu")),
        biases=BIASES[bool(hf.get("attention_bias")), bool(hf.get("mlp_bias"))],
        tie_embeddings=hf.get("tie_word_embeddings", False),
        attention_dropout=hf.get("attention_dropout", 0.0),
        init_std=hf.get("initializer_range", 0.02),
    )


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    if not isinstance(cfg.positions, Rotary):
        raise ValueError(f"positions is {cfg.positions.kind!r}; accepted: 'rotary'")
    if not isinstance(cfg.mlp, Gated):
        raise ValueError(f"mlp is {cfg.mlp.kind!r}; accepted: 'gated'")
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "intermediate_size": cfg.d_ff,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.K,
        "head_dim": cfg.H,
        "hidden_act": activations.to_hf(cfg.mlp.activation),
        "rms_norm_eps": cfg.norm.epsilon,
        "attention_bias": cfg.biases in ("all", "attention"),
        "mlp_bias": cfg.biases in ("all", "mlp"),
        "tie_word_embeddings": cfg.tie_embeddings,
        "attention_dropout": cfg.attention_dropout,
        "initializer_range": cfg.init_std,
    } | rope.whole_to_hf(cfg.positions)


FAMILIES = (
    Family(
        "llama",
        {
            "LlamaForCausalLM": "LanguageModel",
            "LLaMAForCausalLM": "LanguageModel",  # in the first files
            "LlamaModel": "Encoder",
            **classifiers.score("Llama"),
            **classifiers.tags("Llama"),
        },
        to_config,
        to_hf,
        table,
        Gguf(llama_gguf.to_hf, llama_gguf.table),
        classifiers.SCORE,
        tagger=classifiers.TOKENS,
    ),
)
