"""Llama in GGUF: llama.cpp's names of its tensors and what its metadata mean there."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.config import ModelConfig
from llmjax.hub.table import Entry, LayerTable, Table

# llama.cpp turns neighbouring pairs, so its query and key rows are interleaved
HALVES = "(N h 2) D -> D N (2 h)", "(K h 2) D -> D K (2 h)"
BLOCK = (
    Entry("blk.{l}.attn_norm.weight", "attention_norm/scale", "D -> D"),
    Entry("blk.{l}.attn_q.weight", "attention/query/kernel", HALVES[0]),
    Entry("blk.{l}.attn_k.weight", "attention/key/kernel", HALVES[1]),
    Entry("blk.{l}.attn_v.weight", "attention/value/kernel", "(K H) D -> D K H"),
    Entry("blk.{l}.attn_output.weight", "attention/out/kernel", "D (N H) -> N H D"),
    Entry("blk.{l}.ffn_norm.weight", "mlp_norm/scale", "D -> D"),
    Entry("blk.{l}.ffn_gate.weight", "mlp/gate/kernel", "F D -> D F"),
    Entry("blk.{l}.ffn_up.weight", "mlp/up/kernel", "F D -> D F"),
    Entry("blk.{l}.ffn_down.weight", "mlp/down/kernel", "D F -> F D"),
)
ENDS = (
    Entry("token_embd.weight", "transformer/embedder/table", "V D -> V D"),
    Entry("output_norm.weight", "transformer/stack/final_norm/scale", "D -> D"),
    Entry("output.weight", "unembedding", "V D -> V D"),
)
# keys that change the model, with the values that leave it Llama
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.temperature_scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "use_parallel_residual": (False,),
}


def table(cfg: ModelConfig) -> Table:
    stack = LayerTable("transformer/stack", cfg.layers, BLOCK)
    return Table(ENDS, (stack,), ignored=(r"rope_freqs\.weight",))


def to_hf(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The dict of config.json.

    Raises:
      KeyError: a key that llama.cpp needs too.
      ValueError: a value of another type, or one that the model can't have.
    """
    keys = Keys(metadata)
    for name, neutral in NEUTRAL.items():
        value = keys.one(name, neutral[0])
        if value not in neutral:
            raise keys.refuse(name, value, " or ".join(map(str, neutral)))
    hidden, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    head = keys.whole("attention.key_length", hidden // max(heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.whole(name, head) != head:
            size = f"{head}, the size of a head"
            raise keys.refuse(name, keys.whole(name), size)
    tokens = metadata.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []
    return {
        "vocab_size": keys.whole("vocab_size", len(tokens) or None),
        "hidden_size": hidden,
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": head,
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": keys.whole("context_length"),
        "rope_parameters": _rope(keys, tensors, head),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


class Keys:
    """The metadata whose keys begin with `llama.`, each checked when it is read."""

    def __init__(self, metadata: Mapping[str, Any]):
        self.metadata = metadata

    def refuse(self, name: str, value: Any, accepted: str) -> ValueError:
        return ValueError(
            f"llama.{name} is {str(value)[:80]}; accepted: {accepted}. Load the "
            "model's safetensors instead"
        )

    def one(self, name: str, unsaid: Any) -> Any:
        """A value, or the one that a list of one for each layer repeats; a KeyError
        where it is missing and `unsaid` is None."""
        key = f"llama.{name}"
        value = self.metadata[key] if unsaid is None else self.metadata.get(key, unsaid)
        if not isinstance(value, np.ndarray):
            return value
        if len(set(value.tolist())) != 1:
            raise self.refuse(name, value.tolist(), "the same in all layers")
        return value.tolist()[0]

    def whole(self, name: str, unsaid: int | None = None) -> int:
        """A count above 0."""
        value = self.one(name, unsaid)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refuse(name, value, "a whole number above 0")
        return value

    def real(self, name: str, unsaid: float | None = None) -> float:
        """A finite number above 0."""
        value = self.one(name, unsaid)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise self.refuse(name, value, "a finite number above 0")
        return float(value)


def _rope(keys: Keys, tensors: Mapping[str, Any], head: int) -> dict[str, Any]:
    """`rope_parameters`; Llama 3's scaling is there as a divisor per frequency.

    A factor without a type is a linear one's, and has an older name too.
    """
    kind = keys.one("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise keys.refuse("rope.scaling.type", repr(kind), "'none', 'linear'")
    factor = 1.0
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        if keys.one(name, 0) != 0:  # 0 says nothing
            factor = keys.real(name)
            break
    factor = factor if kind == "linear" else 1.0
    rope = {"rope_theta": keys.real("rope.freq_base", 10_000.0)}
    if (divisors := tensors.get("rope_freqs.weight")) is not None:
        if divisors.shape != (head // 2,):
            raise ValueError(
                f"rope_freqs.weight has the shape {divisors.shape}; accepted: "
                f"({head // 2},), a divisor for each pair of a head"
            )
        each = [factor * d for d in divisors.read((slice(0, head // 2),)).tolist()]
        return rope | {
            "rope_type": "longrope",
            "short_factor": each,
            "long_factor": each,
            "attention_factor": 1.0,
        }
    if factor != 1:
        return rope | {"rope_type": "linear", "factor": factor}
    return rope
