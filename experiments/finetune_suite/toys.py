"""Toy models with random weights, in the hub's formats, and the words that they know.

A word is a token. The rows that `--quick` makes up are of these words.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from flax import traverse_util
from tokenizers import decoders, models, pre_tokenizers, processors

from llmjax import hub
from llmjax.hub import families
from llmjax.hub.load import abstract
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel

WORDS = (
    *("bad", "good", "red", "blue", "green", "white", "sun", "moon", "sea", "hill"),
    *("bird", "fish", "tree", "stone", "king", "town", "song", "book", "rot", "blau"),
    *("who", "what", "where", "is", "the", "a", "of", "in", "near", "it", "and", "?"),
)
BERT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_heads": 2,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
TEMPLATE = (
    "{% for m in messages %}<|start|> {{ m['role'] }} {{ m['content'] }} <|end|> "
    "{% endfor %}{% if add_generation_prompt %}<|start|> assistant {% endif %}"
)


def bert(folder: Path) -> None:
    """An encoder."""
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep")}
    _write(folder, "bert", BERT, specials, "[UNK]", single, pair, names)


def t5(folder: Path) -> None:
    """An encoder-decoder."""
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    single, pair = "$A </s>", "$A </s> $B </s>"
    _write(folder, "t5", T5, (*names.values(),), "<unk>", single, pair, names)


def llama(folder: Path) -> None:
    """A decoder with a chat template."""
    specials = ("<pad>", "<s>", "</s>", "<unk>", "<|start|>", "<|end|>")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<|end|>"}
    names |= {"unk_token": "<unk>", "chat_template": TEMPLATE}
    more = ("user", "assistant", "system")
    _write(folder, "llama", LLAMA, (*specials, *more), "<unk>", "$A", "$A $B", names)


def _write(
    folder: Path,
    family: str,
    sizes: Mapping[str, Any],
    specials: tuple[str, ...],
    unknown: str,
    single: str,
    pair: str,
    names: Mapping[str, str],
) -> None:
    """A model and its tokenizer, as transformers would write them."""
    vocabulary = {word: k for k, word in enumerate((*specials, *WORDS))}
    config = {**sizes, "vocab_size": len(vocabulary)}
    own = families.family(family).to_config(config)
    kind = Encoder if own.architecture == "encoder" else LanguageModel
    model: Any = kind(own)
    hub.save(model, _random(model), folder, family=family)
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece()
    added = [s for s in specials if not s.isalpha()]
    inner.add_special_tokens(added)
    inside = [(s, vocabulary[s]) for s in added]
    inner.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=inside
    )
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names) + "\n")
    if "decoder_start_token_id" in sizes:  # which no part of a model's shape says
        own = json.loads((folder / "config.json").read_text())
        ids = {k: v for k, v in sizes.items() if k.endswith("_token_id")}
        (folder / "config.json").write_text(json.dumps(own | ids) + "\n")


def _random(model: Any) -> Any:
    """Weights of a model, by numpy."""
    rng = np.random.default_rng(0)
    shapes, _ = abstract(model)
    leaves = {
        path: np.float32(
            ("scale" in path) + 0.1 * rng.standard_normal(shape, np.float32)
        )
        for path, shape in shapes.items()
    }
    return traverse_util.unflatten_dict(leaves, sep="/")


def sentences(count: int, classes: tuple[str, ...]) -> list[dict[str, str]]:
    """Made-up texts, whose label stands in them."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(count):
        label = classes[k % len(classes)]
        others = " ".join(rng.choice(WORDS[6:18], 3).tolist())
        rows.append({"text": f"the {label} {others} is {label}", "label": label})
    return rows
