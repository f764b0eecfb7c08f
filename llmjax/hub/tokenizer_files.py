"""A tokenizer's files beside a model, as transformers and `hub.tokenizer` read them."""

import json
from pathlib import Path
from typing import Any

import tokenizers

from llmjax.data.tokenizers.frame import Frame, Slot
from llmjax.data.tokenizers.tokenizer import Tokenizer

NAMES = (  # files of a folder of the hub that belong to its tokenizer
    "tokenizer.json",
    "tokenizer_config.json",
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


def write(
    tokenizer: Tokenizer, folder: Path, longest: int, *, ends: bool = False
) -> list[Path]:
    """Writes tokenizer.json and tokenizer_config.json; their paths.

    Args:
      tokenizer: of a corpus or a GGUF file.
      folder: exists.
      longest: tokens that the model was trained on at once.
      ends: one that was learned here puts special tokens behind a text too, for a model
        that reads whole texts; else before it alone, so that it can be continued.
    """
    tokenizer.save(folder / "tokenizer.json")
    if tokenizer.num_specials:
        _say_frame(folder / "tokenizer.json", tokenizer, ends)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    names = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
    tokens = {f"{k}_token": v for k, v in tokenizer.specials.items() if k in names}
    defaults = {
        # or the class that belongs to the model's family makes it anew by its own rules
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
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
