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
from llmjax.data.store.documents import Chunk, Documents
from llmjax.data.tokenizers import tokenizer

FORMAT = 2  # of the token files


@dataclasses.dataclass(frozen=True)
class _Job:
    """A range of documents to be encoded."""

    documents: Documents
    chunk: Chunk
    tokenizer: str
    fingerprint: str
    output: str

    @property
    def size(self) -> int:
        return self.chunk.size

    def done(self) -> bool:
        return epath.Path(self.output).exists()


def key(content_sha256: str, fingerprint: str) -> str:
    """Identity of token files: a function of the documents and the tokenizer."""
    identity = json.dumps([content_sha256, fingerprint, {}, FORMAT])  # {}: of format 2
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
      prepare: `shards` and `workers` are read.

    Returns:
      "<field>/<split>" -> its account.
    """
    wanted = key(documents.account["content_sha256"], found.fingerprint)
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
            jobs = _jobs(documents, field, missing, folder, found, work)
            workers.run(_encode, jobs, f"tokens {field}", prepare.workers)
            for split, place in missing.items():
                parts = [
                    epath.Path(job.output)
                    for job in jobs
                    if job.chunk.split in ("", split)
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


def _is(place: epath.Path, key: str, shards: int | None) -> bool:
    """Whether whole token files of that key lie there."""
    account = tokens.account(place) or {}
    return account.get("key") == key and shards in (None, account["shards"])


def _jobs(
    documents: Documents,
    field: str,
    missing: Mapping[str, epath.Path],
    folder: epath.Path,
    found: tokenizer.Tokenizer,
    work: epath.Path,
) -> list[_Job]:
    """A job for each range of documents in which something is missing."""
    work.mkdir(parents=True, exist_ok=True)
    return [
        _Job(
            documents,
            chunk,
            str(folder / "tokenizer.json"),
            found.fingerprint,
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


def _encode(job: _Job) -> None:
    """Encodes documents; leaves the tokens of each of their splits as a block."""
    tokenizer = _tokenizer(job.tokenizer, job.fingerprint)
    columns: dict[str, tuple[list[Any], ...]] = {}
    for batch in job.documents.read(job.chunk):
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
    if _is(place, key, shards):
        _remove(partial)
        return
    _remove(place)
    partial.rename(place)


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()
