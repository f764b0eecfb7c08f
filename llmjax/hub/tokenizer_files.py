"""A tokenizer's files beside a model, as transformers and `hub.tokenizer` read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from llmjax.config import Learned
from llmjax.data.tokenizers.frame import Frame, Slot
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.hub.files import read_json

CONFIG = "tokenizer_config.json"
UNBOUNDED = 10**9  # transformers writes 10**30 for a tokenizer that says no length
NAMES = (  # files of a folder of the hub that belong to its tokenizer
    "tokenizer.json",
    CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def beside(folder: Path) -> list[Path]:
    """The tokenizer's files in a folder of the hub."""
    return [file for name in NAMES if (file := folder / name).is_file()]


def longest(model: Any, files: Sequence[Path]) -> int | None:
    """Tokens at which transformers cuts a text for a model that was loaded.

    None: neither its positions, its config.json nor its tokenizer names a number.

    Args:
      model: of `hub.load`.
      files: its tokenizer's; see `beside`.
    """
    positions = model.cfg.positions
    bounds = [json.loads(model.origin.config).get("max_position_embeddings")]
    if isinstance(positions, Learned):  # which may leave rows of that table out
        bounds = [positions.max_length]
    for file in files:
        if file.name == CONFIG:
            bounds.append(read_json(file).get("model_max_length"))
    named = [b for b in bounds if isinstance(b, int | float) and 0 < b < UNBOUNDED]
    return int(min(named)) if named else None


def write(
    tokenizer: Tokenizer, folder: Path, length: int, *, ends: bool = False
) -> list[Path]:
    """Writes tokenizer.json and tokenizer_config.json; their paths.

    Args:
      tokenizer: of a corpus or a GGUF file.
      folder: exists.
      length: tokens at which a text is cut for the model.
      ends: one that was learned here puts special tokens behind a text too, for a model
        that reads whole texts; else before it alone, so that it can be continued.
    """
    tokenizer.save(folder / "tokenizer.json")
    if tokenizer.num_specials:
        _say_frame(folder / "tokenizer.json", tokenizer, ends)
    file = folder / CONFIG
    config = json.loads(file.read_text()) if file.exists() else {}
    names = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
    tokens = {f"{k}_token": v for k, v in tokenizer.specials.items() if k in names}
    defaults = {
        # or the class that belongs to the model's family makes it anew by its own rules
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }
    file.write_text(json.dumps(defaults | tokens | config, indent=2) + "\n")
    return beside(folder)


def _say_frame(file: Path, tokenizer: Tokenizer, ends: bool) -> None:
    """Writes the special tokens around a text into a tokenizer.json that lacks them."""
    described = json.loads(file.read_text())
    if described.get("post_processor") is not None:
        return
    inner = tokenizers.Tokenizer.from_file(str(file))
    frame = tokenizer.frame if ends else Frame.before(tokenizer.frame.beginning)
    ids = {slot.token for slot in frame.single if slot.token is not None}
    names = {i: inner.id_to_token(i) for i in sorted(ids)}

    def place(slot: Slot) -> dict[str, Any]:
        if slot.token is None:
            return {"Sequence": {"id": "AB"[slot.text], "type_id": slot.type}}
        return {"SpecialToken": {"id": names[slot.token], "type_id": slot.type}}

    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [place(slot) for slot in frame.single],
        "pair": [place(slot) for slot in frame.pair],
        "special_tokens": {
            name: {"id": name, "ids": [i], "tokens": [name]}
            for i, name in names.items()
        },
    }
    file.write_text(json.dumps(described, ensure_ascii=False))
