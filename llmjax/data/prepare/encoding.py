"""Documents become token files: encoded in chunks by workers, then put together."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from llmjax.config import PrepareConfig
from llmjax.data.prepare import workers
from llmjax.data.store import manifest, tokens
from llmjax.data.store.documents import DocumentRange, Documents
from llmjax.data.tokenizers import tokenizer as tokenizer_lib

FORMAT = 2  # of the token files


@dataclasses.dataclass(frozen=True)
class _Job:
    """A range of documents to be encoded."""

    documents: Documents
    extent: DocumentRange
    tokenizer: str
    fingerprint: str
    output: str

    @property
    def size(self) -> int:
        return self.extent.size

    def done(self) -> bool:
        return epath.Path(self.output).exists()


def key(content_sha256: str, fingerprint: str) -> str:
    """Identity of token files: a function of the documents and the tokenizer."""
    identity = json.dumps([content_sha256, fingerprint, {}, FORMAT])  # {}: of format 2
    return hashlib.sha256(identity.encode()).hexdigest()


def write(
    folder: epath.Path,
    documents: Documents,
    tokenizer: tokenizer_lib.Tokenizer,
    prepare: PrepareConfig,
) -> dict[str, dict[str, Any]]:
    """Writes what is missing of the token files of every field and split.

    Args:
      folder: has tokenizer.json; gets `<field>/<split>/`.
      documents: the texts.
      tokenizer: the tokenizer of tokenizer.json.
      prepare: `shards` and `workers` are read.

    Returns:
      "<field>/<split>" -> its account.
    """
    identity = key(documents.account["content_sha256"], tokenizer.fingerprint)
    files: dict[str, dict[str, Any]] = {}
    for field in documents.account["fields"]:
        places = {s: folder / field / s for s in documents.account["documents"]}
        missing = {
            split: place
            for split, place in places.items()
            if not _has_tokens(place, identity, prepare.shards)
        }
        work = folder / f".{field}.{identity[:16]}"
        if missing:
            jobs = _jobs(documents, field, missing, folder, tokenizer, work)
            workers.run(_encode, jobs, f"tokens {field}", prepare.workers)
            for split, place in missing.items():
                parts = [
                    epath.Path(job.output)
                    for job in jobs
                    if job.extent.split in ("", split)
                ]
                blocks = tokens.Blocks(parts, f"{split}/")
                partial = manifest.partial(place)
                _remove(partial)
                tokens.write(
                    partial, blocks, tokenizer.vocab_size, identity, prepare.shards
                )
                _move(partial, place, identity, prepare.shards)
        for rest in (work, *(folder / field).glob(".*.partial")):
            _remove(rest)
        for split, place in places.items():
            account = tokens.account(place) or {}
            files[f"{field}/{split}"] = {
                name: value for name, value in account.items() if name != "key"
            }
    return files


def _has_tokens(place: epath.Path, key: str, shards: int | None) -> bool:
    """Whether a folder has all token files of that key."""
    account = tokens.account(place) or {}
    return account.get("key") == key and shards in (None, account["shards"])


def _jobs(
    documents: Documents,
    field: str,
    missing: Mapping[str, epath.Path],
    folder: epath.Path,
    tokenizer: tokenizer_lib.Tokenizer,
    work: epath.Path,
) -> list[_Job]:
    """A job for each range of documents in which something is missing."""
    work.mkdir(parents=True, exist_ok=True)
    return [
        _Job(
            documents,
            extent,
            str(folder / "tokenizer.json"),
            tokenizer.fingerprint,
            str(work / f"{k:06d}.npz"),
        )
        for k, extent in enumerate(documents.ranges(field))
        if extent.split == "" or extent.split in missing
    ]


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str, fingerprint: str) -> tokenizer_lib.Tokenizer:
    tokenizer = tokenizer_lib.load(path)
    assert tokenizer.fingerprint == fingerprint, path
    return tokenizer


def _encode(job: _Job) -> None:
    """Encodes documents; leaves the tokens of each of their splits as a block."""
    tokenizer = _tokenizer(job.tokenizer, job.fingerprint)
    columns: dict[str, tuple[list[Any], ...]] = {}
    for batch in job.documents.read(job.extent):
        encoded = tokenizer.encode_batch([text for _, text, _ in batch])
        for (split, text, label), ids in zip(batch, encoded, strict=True):
            column = columns.setdefault(split, ([], [], []))
            row = (ids, label, len(text.encode()))
            for values, value in zip(column, row, strict=True):
                values.append(value)
    arrays = {
        f"{split}/{name}": array
        for split, column in columns.items()
        for name, array in tokens.block(*column).items()
    }
    output = epath.Path(job.output)
    partial = manifest.partial(output)
    with partial.open("wb") as f:
        np.savez(f, allow_pickle=False, **arrays)
    partial.replace(output)


def _move(partial: epath.Path, place: epath.Path, key: str, shards: int | None) -> None:
    """Puts a whole folder in its place, unless another process was first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if _has_tokens(place, key, shards):
        _remove(partial)
        return
    _remove(place)
    partial.rename(place)


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()
