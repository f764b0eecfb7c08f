"""Tokenizers in files: what `Tokenizer.save` wrote, Hugging Face's, SentencePiece's,
tiktoken's. All are data; nothing that a file says is executed."""

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers
from etils import epath

from llmjax.data.tokenizers import sentencepiece_model, tiktoken_ranks

CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")  # the latter wins
NAMES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
_IN_FOLDERS = ("tokenizer.json", "*.model", "*.tiktoken")
_RANKS = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")

Parts = tuple[str, dict[str, str], str | None]


def read(path: epath.PathLike, pattern: str | None = None) -> Parts:
    """A tokenizer's json, its specials' names ("eos" -> "</s>") and its chat template.

    Args:
      path: a tokenizer.json, a SentencePiece model, tiktoken ranks (told apart by
        their content), or a folder with one of them. Beside a tokenizer.json,
        tokenizer_config.json, special_tokens_map.json and chat_template.jinja are read.
      pattern: how tiktoken ranks split a text; None: by the file's name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is broken, or of a kind that is not understood.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        found = [file for form in _IN_FOLDERS for file in sorted(path.glob(form))]
        if not found:
            raise FileNotFoundError(
                f"{path} has no tokenizer; accepted: {', '.join(_IN_FOLDERS)}"
            )
        path = found[0]
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {path}; "
            "`python -m experiments.prepare_data --config=...` makes one"
        )
    data = path.read_bytes()
    if path.suffix == ".json" or data[:1] == b"{":
        return _json(path, data), *names(path.parent)
    if _RANKS.match(data):
        inner, specials = tiktoken_ranks.convert(path, data, pattern)
    else:
        inner, specials = sentencepiece_model.convert(path, data)
    return inner.to_str(), specials, names(path.parent)[1]


def write(
    path: epath.Path, text: str, specials: Mapping[str, str], template: str | None
) -> None:
    """Writes what `read` reads: `text` whole or not at all, its config before it."""
    beside: dict[str, Any] = {
        f"{name}_token": token for name, token in specials.items()
    }
    if template is not None:
        beside["chat_template"] = template
    config = path.parent / "tokenizer_config.json"
    if beside or config.exists():
        _replace(config, json.dumps(beside, indent=2, ensure_ascii=False))
    _replace(path, text)


def names(folder: epath.Path) -> tuple[dict[str, str], str | None]:
    """What a folder's files call the specials, and its chat template.

    Raises:
      ValueError: one of the files is broken.
    """
    config: dict[str, Any] = {}
    for name in CONFIGS:
        file = folder / name
        if not file.exists():
            continue
        try:
            found = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{file} is not json: {str(e)[:200]}") from e
        if not isinstance(found, dict):
            raise ValueError(f"{file} holds a {type(found).__name__}, not an object")
        config |= found
    specials = {}
    for name in NAMES:
        token = config.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            specials[name] = token
    return specials, _template(folder, config)


def _template(folder: epath.Path, config: Mapping[str, Any]) -> str | None:
    """A file of its own, or in tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_bytes().decode()
    given = config.get("chat_template")
    if isinstance(given, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in given if isinstance(t, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _json(path: epath.Path, data: bytes) -> str:
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
