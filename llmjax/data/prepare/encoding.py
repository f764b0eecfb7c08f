"""Documents become token files: encoded in chunks by workers, then put together."""

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from llmjax.config import PrepareConfig
from llmjax.data.prepare import workers
from llmjax.data.store import manifest, tokens
from llmjax.data.store.documents import Chunk, Documents
from llmjax.data.tokenizers import tokenizer

FORMAT = 2  # of the token files

Annotate = Callable[[str, np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class _Task:
    """A chunk to be encoded."""

    documents: Documents
    chunk: Chunk
    tokenizer: str
    fingerprint: str
    annotate: str
    output: str

    @property
    def size(self) -> int:
        return self.chunk.size

    def done(self) -> bool:
        return epath.Path(self.output).exists()


def key(content_sha256: str, fingerprint: str, annotate: Mapping[str, str]) -> str:
    """What token files are a function of."""
    identity = json.dumps([content_sha256, fingerprint, annotate, FORMAT])
    return hashlib.sha256(identity.encode()).hexdigest()


def write(
    folder: epath.Path,
    documents: Documents,
    found: tokenizer.Tokenizer,
    prepare: PrepareConfig,
) -> dict[str, dict[str, Any]]:
    """Makes what is missing of the token files of every field and split.

    Args:
      folder: of tokenizer.json; gets `<field>/<split>/`.
      documents: of them.
      found: what tokenizer.json holds.
      prepare: of it `annotate`, `shards` and `workers`.

    Returns:
      "<field>/<split>" -> its account.

    Raises:
      ValueError: `annotate` names nothing, or gives what doesn't fit its document.
    """
    content, annotate = documents.account["content_sha256"], prepare.annotate
    wanted = key(content, found.fingerprint, annotation(annotate))
    files: dict[str, dict[str, Any]] = {}
    for field in documents.account["fields"]:
        places = {s: folder / field / s for s in documents.account["documents"]}
        missing = {
            split: place
            for split, place in places.items()
            if not _is(place, wanted, prepare.shards)
        }
        work = folder / f".{field}.{wanted[:16]}"
        if missing:
            tasks = _tasks(documents, field, missing, folder, found, annotate, work)
            workers.run(_encode, tasks, f"tokens {field}", prepare.workers)
            for split, place in missing.items():
                parts = [
                    epath.Path(task.output)
                    for task in tasks
                    if task.chunk.split in ("", split)
                ]
                blocks = tokens.Blocks(parts, f"{split}/")
                partial = manifest.partial(place)
                _remove(partial)
                tokens.write(partial, blocks, found.vocab_size, wanted, prepare.shards)
                _move(partial, place, wanted, prepare.shards)
        for rest in (work, *(folder / field).glob(".*.partial")):
            _remove(rest)
        for split, place in places.items():
            account = tokens.account(place) or {}
            files[f"{field}/{split}"] = {
                name: value for name, value in account.items() if name != "key"
            }
    return files


def annotation(annotate: str) -> dict[str, str]:
    """The identity of "module:function": its name, and the hash of its module's file.

    Raises:
      ValueError: there is no such module.
    """
    if not annotate:
        return {}
    module = annotate.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not pathlib.Path(found.origin).exists():
        raise ValueError(
            f"data.prepare.annotate={annotate!r} names no module that can be imported; "
            "it must be 'module:function', from the folder where the command is given"
        )
    return {"function": annotate, "module_sha256": manifest.sha256(found.origin)}


def _is(place: epath.Path, key: str, shards: int | None) -> bool:
    """Whether whole token files of that key lie there."""
    account = tokens.account(place) or {}
    return account.get("key") == key and shards in (None, account["shards"])


def _tasks(
    documents: Documents,
    field: str,
    missing: Mapping[str, epath.Path],
    folder: epath.Path,
    found: tokenizer.Tokenizer,
    annotate: str,
    work: epath.Path,
) -> list[_Task]:
    """One per chunk in which something is missing."""
    _hook(annotate)  # so that a wrong one is told before it starts
    work.mkdir(parents=True, exist_ok=True)
    return [
        _Task(
            documents,
            chunk,
            str(folder / "tokenizer.json"),
            found.fingerprint,
            annotate,
            str(work / f"{k:06d}.npz"),
        )
        for k, chunk in enumerate(documents.chunks(field))
        if chunk.split == "" or chunk.split in missing
    ]


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str, fingerprint: str) -> tokenizer.Tokenizer:
    found = tokenizer.load(path)
    assert found.fingerprint == fingerprint, path
    return found


@functools.lru_cache(maxsize=2)
def _hook(annotate: str) -> Annotate | None:
    module, _, function = annotate.partition(":")
    if not annotate:
        return None
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:
        raise ValueError(
            f"data.prepare.annotate={annotate!r} cannot be imported ({e}); it must be "
            "'module:function', from the folder where the command is given"
        ) from e


def _encode(task: _Task) -> None:
    """Encodes a chunk; leaves the tokens of each of its splits as a block."""
    found = _tokenizer(task.tokenizer, task.fingerprint)
    hook = _hook(task.annotate)
    columns: dict[str, tuple[list[Any], ...]] = {}
    for batch in task.documents.read(task.chunk):
        texts = [text for _, text, _ in batch]
        annotations: list[Mapping[str, np.ndarray]] = [{}] * len(texts)
        if hook is None:
            encoded = found.encode_batch(texts)
        else:
            pairs = [found.encode_with_offsets(text) for text in texts]
            encoded = [ids for ids, _ in pairs]
            annotations = [
                hook(text, offsets)
                for text, (_, offsets) in zip(texts, pairs, strict=True)
            ]
        for (split, text, label), ids, a in zip(
            batch, encoded, annotations, strict=True
        ):
            column = columns.setdefault(split, ([], [], [], []))
            for values, value in zip(
                column, (ids, label, len(text.encode()), a), strict=True
            ):
                values.append(value)
    arrays = {
        f"{split}/{name}": array
        for split, column in columns.items()
        for name, array in tokens.block(*column).items()
    }
    output = epath.Path(task.output)
    partial = manifest.partial(output)
    with partial.open("wb") as f:
        np.savez(f, allow_pickle=False, **arrays)
    partial.replace(output)


def _move(partial: epath.Path, place: epath.Path, key: str, shards: int | None) -> None:
    """Puts a whole folder in its place, unless another process was first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if _is(place, key, shards):
        _remove(partial)
        return
    _remove(place)
    partial.rename(place)


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()
