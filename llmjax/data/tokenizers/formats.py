"""Tokenizers in files: what `Tokenizer.save` wrote, Hugging Face's, SentencePiece's,
tiktoken's. All are data; nothing in a file is executed."""

import base64
import collections
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from llmjax.data.tokenizers import (
    byte_level,
    charsmap,
    conventions,
    sentencepiece_model,
    tiktoken_ranks,
)
from llmjax.data.tokenizers.conventions import Conventions
from llmjax.data.tokenizers.library import library_errors

_IN_FOLDERS = ("tokenizer.json", "*.model", "*.tiktoken")
_RANKS = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")


def read(path: epath.PathLike, pattern: str | None = None) -> tuple[str, Conventions]:
    """A tokenizer's json and its conventions.

    Args:
      path: a tokenizer.json, a SentencePiece model, tiktoken ranks (told apart by
        their content), or a folder with one of them. The files of `conventions` beside
        it are read too; of the specials that they name those that it has.
      pattern: how tiktoken ranks split a text; None: by the file's name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is broken, or of a kind that is not understood.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        files = [file for form in _IN_FOLDERS for file in sorted(path.glob(form))]
        files = [file for file in files if not file.is_dir()]
        if not files:
            raise FileNotFoundError(
                f"{path} has no tokenizer; accepted: {', '.join(_IN_FOLDERS)}"
            )
        path = files[0]
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {path}; `llmjax prepare_data --config=...` makes one"
        )
    data = path.read_bytes()
    beside, added = conventions.read(path.parent)
    if path.suffix == ".json" or data[:1] == b"{":
        return _with_added(path, *_json(path, data), added)[0], beside
    if _RANKS.match(data):
        inner, specials = tiktoken_ranks.convert(path, data, pattern)
        adds = {"bos": False, "eos": False}  # as tiktoken
    else:
        with library_errors(f"{path} is no SentencePiece model that can be read"):
            inner, specials = sentencepiece_model.convert(path, data)
        # as Llama's and T5's tokenizers: a beginning, or an end where there is none
        adds = {"bos": "bos" in specials, "eos": "bos" not in specials}
    text, inner = _with_added(path, inner.to_str(), inner, added)
    vocab = inner.get_vocab(with_added_tokens=True)
    specials |= {n: token for n, token in beside.specials.items() if token in vocab}
    adds |= dict(beside.adds)
    return text, beside._replace(specials=specials, adds=adds)


def write(path: epath.Path, text: str, beside: Conventions) -> None:
    """Writes what `read` reads: `text` whole or not at all, its config before it."""
    conventions.write(path.parent / conventions.CONFIGS[-1], beside)
    conventions.replace(path, text)


def _json(path: epath.Path, data: bytes) -> tuple[str, tokenizers.Tokenizer]:
    """The text of a tokenizer.json, and what the library makes of it."""
    try:
        text = data.decode()
        with library_errors("the library tokenizers refuses it"):
            return text, tokenizers.Tokenizer.from_str(text)
    except ValueError as e:
        raise ValueError(
            f"{path} is no tokenizer's json ({str(e)[:200]}); delete it and prepare "
            "the data again, or copy it again from where it came"
        ) from e


def _with_added(
    path: epath.Path,
    text: str,
    inner: tokenizers.Tokenizer,
    tokens: Sequence[Mapping[str, Any]],
) -> tuple[str, tokenizers.Tokenizer]:
    """A tokenizer, as json too, with the tokens that stand only in files beside it.

    Raises:
      ValueError: one of them can't have the id that it is to have, or two tokens of the
        result have one id.
    """
    present = {t.content for t in inner.get_added_tokens_decoder().values()}
    missing = [t for t in tokens if t["content"] and t["content"] not in present]
    if missing:
        described = json.loads(text)
        described["added_tokens"] = [*(described.get("added_tokens") or ()), *missing]
        text = json.dumps(described, ensure_ascii=False)
        with library_errors(f"{path} can't take the tokens of the files beside it"):
            inner = tokenizers.Tokenizer.from_str(text)
    for token in missing:
        number = inner.token_to_id(token["content"])
        if number != token["id"]:
            raise ValueError(
                f"the files beside {path} add the token {token['content']!r} as "
                f"{token['id']}, and it would be {number}; correct "
                f"{conventions.CONFIGS[-1]}, or copy all files again from one place"
            )
    _distinct(path, inner)
    _check_normalizer(path, inner)
    return text, inner


def _distinct(path: epath.Path, inner: tokenizers.Tokenizer) -> None:
    """Refuses two tokens of one id: the library gives an added one the number of
    tokens before it, which a vocabulary with holes may have."""
    vocab = inner.get_vocab(with_added_tokens=True)
    if len(set(vocab.values())) == len(vocab):
        return
    (number, _), *_ = collections.Counter(vocab.values()).most_common(1)
    names = sorted(token for token, i in vocab.items() if i == number)
    raise ValueError(
        f"{path} gives the id {number} to the tokens {names[0]!r} and {names[1]!r}; "
        "renumber its vocabulary without holes"
    )


def _check_normalizer(path: epath.Path, inner: tokenizers.Tokenizer) -> None:
    """Refuses a map of characters that the library would panic at."""
    if inner.normalizer is None:
        return
    described = {"normalizer": json.loads(inner.normalizer.__getstate__())}
    for step in byte_level.steps(described, "normalizer"):
        if coded := step.get("precompiled_charsmap"):
            try:
                charsmap.check(base64.b64decode(coded))
            except ValueError as e:
                raise ValueError(
                    f"{path} has a broken precompiled_charsmap: {e}; copy the file "
                    "again from where it came"
                ) from e
