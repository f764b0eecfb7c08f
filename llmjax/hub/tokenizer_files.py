"""A tokenizer's files beside a model, as transformers and `hub.tokenizer` read them."""

import json
from pathlib import Path

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


def write(tokenizer: Tokenizer, folder: Path, longest: int) -> list[Path]:
    """Writes tokenizer.json and tokenizer_config.json; their paths.

    Args:
      tokenizer: of a corpus or a GGUF file.
      folder: exists.
      longest: tokens that the model was trained on at once.
    """
    tokenizer.save(folder / "tokenizer.json")
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
