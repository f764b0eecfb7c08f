"""Tokenizers in files: what `Tokenizer.save` wrote, Hugging Face's, SentencePiece's,
tiktoken's. All are data; nothing in a file is executed."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers
from etils import epath

from llmjax.data.tokenizers import sentencepiece_model, tiktoken_ranks

CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")  # the latter wins
NAMES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
_IN_FOLDERS = ("tokenizer.json", "*.model", "*.tiktoken")
_RANKS = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")


class Conventions(NamedTuple):
    """The part of a tokenizer that its json leaves unsaid; see tokenizer_config.json.

    Attributes:
      specials: "bos", "eos"… -> the token.
      chat_template: jinja, or None.
      adds: "bos" or "eos" -> whether it stands around a text; absent: as the json's
        post-processor says.
    """

    specials: Mapping[str, str] = {}
    chat_template: str | None = None
    adds: Mapping[str, bool] = {}


def read(path: epath.PathLike, pattern: str | None = None) -> tuple[str, Conventions]:
    """A tokenizer's json and its conventions.

    Args:
      path: a tokenizer.json, a SentencePiece model, tiktoken ranks (told apart by
        their content), or a folder with one of them. Beside each of them
        tokenizer_config.json, special_tokens_map.json and chat_template.jinja are read;
        the names of specials only beside a tokenizer.json.
      pattern: how tiktoken ranks split a text; None: by the file's name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is broken, or of a kind that is not understood.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        files = [file for form in _IN_FOLDERS for file in sorted(path.glob(form))]
        if not files:
            raise FileNotFoundError(
                f"{path} has no tokenizer; accepted: {', '.join(_IN_FOLDERS)}"
            )
        path = files[0]
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {path}; "
            "`python -m experiments.prepare_data --config=...` makes one"
        )
    data = path.read_bytes()
    if path.suffix == ".json" or data[:1] == b"{":
        return _json(path, data), conventions(path.parent)
    if _RANKS.match(data):
        inner, specials = tiktoken_ranks.convert(path, data, pattern)
        adds = {"bos": False, "eos": False}  # as tiktoken
    else:
        inner, specials = sentencepiece_model.convert(path, data)
        # as Llama's and T5's tokenizers: a beginning, or an end where there is none
        adds = {"bos": "bos" in specials, "eos": "bos" not in specials}
    beside = conventions(path.parent)
    adds |= beside.adds
    return inner.to_str(), Conventions(specials, beside.chat_template, adds)


def write(path: epath.Path, text: str, conventions: Conventions) -> None:
    """Writes what `read` reads: `text` whole or not at all, its config before it."""
    beside: dict[str, Any] = {
        f"{name}_token": token for name, token in conventions.specials.items()
    }
    beside |= {f"add_{name}_token": flag for name, flag in conventions.adds.items()}
    if conventions.chat_template is not None:
        beside["chat_template"] = conventions.chat_template
    config = path.parent / "tokenizer_config.json"
    if beside or config.exists():
        _replace(config, json.dumps(beside, indent=2, ensure_ascii=False))
    _replace(path, text)


def conventions(folder: epath.Path) -> Conventions:
    """The conventions in a folder's files.

    Raises:
      ValueError: one of the files is broken.
    """
    config: dict[str, Any] = {}
    for name in CONFIGS:
        file = folder / name
        if not file.exists():
            continue
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{file} is not json: {str(e)[:200]}") from e
        if not isinstance(content, dict):
            raise ValueError(f"{file} holds a {type(content).__name__}, not an object")
        config |= content
    specials = {}
    for name in NAMES:
        token = config.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            specials[name] = token
    flags = {name: config.get(f"add_{name}_token") for name in ("bos", "eos")}
    adds = {name: flag for name, flag in flags.items() if isinstance(flag, bool)}
    return Conventions(specials, _template(folder, config), adds)


def _template(folder: epath.Path, config: Mapping[str, Any]) -> str | None:
    """The chat template, from its own file or from tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_bytes().decode()
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        by_name = {entry.get("name"): entry.get("template") for entry in entries}
        template = by_name.get("default")
    return template if isinstance(template, str) else None


def _json(path: epath.Path, data: bytes) -> str:
    """The text of a tokenizer.json that the library can read."""
    try:
        text = data.decode()
        tokenizers.Tokenizer.from_str(text)
    except Exception as e:  # the library has no narrower type
        raise ValueError(
            f"{path} is no tokenizer's json ({str(e)[:200]}); delete it and prepare "
            "the data again, or copy it again from where it came"
        ) from e
    return text


def _replace(path: epath.Path, text: str) -> None:
    temporary = path.parent / f".{path.name}.partial"
    temporary.write_bytes(text.encode())
    temporary.replace(path)
