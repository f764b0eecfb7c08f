"""Local files become clean documents: read, cleaned, filtered, deduplicated, split.

`<directory>/files/<name>/` gets an arrow file per slice of the input, written by
workers in any order, and signatures beside it; from all signatures follows which
documents stay, and in which split. What is on disk is not written again, so that an
interrupted preparation goes on.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from llmjax.config import (
    DataConfig,
    Label,
    Labels,
    Number,
    PrepareConfig,
    Spans,
    Tags,
)
from llmjax.data.cleaning import choice, duplicates, filters, steps
from llmjax.data.files import columns as columns
from llmjax.data.files import finding, passages, readers
from llmjax.data.files.slices import LABEL_FORM, FileSlice
from llmjax.data.prepare import selecting, workers
from llmjax.data.store import manifest
from llmjax.data.store.documents import (
    FileDocuments,
    account_of,
    slice_file,
    write_slice,
)

FORMAT = 1  # raise it when the same files become different documents
SPLIT = "split"  # the field that says it, where data.prepare.split leaves it open
_BLOCK_CHARACTERS = 1 << 19  # of documents that are written at once

Timed = Callable[[str], contextlib.AbstractContextManager[None]]


def name(source: str, data: DataConfig) -> str:
    """The corpus's name: other files or other rules have another.

    Raises:
      ValueError: nothing there that can be read.
    """
    path = finding.path_of(source)
    listing = finding.find(source, cut=not data.prepare.fields)
    files = listing.files
    root = path if path.is_dir() else path.parent
    cache = _directory(data) / "hashes" / f"{_digest(str(path.absolute()))[:16]}.json"
    sha256 = manifest.hashes(files, cache)
    named = [
        (str(f.relative_to(root)) if f.is_relative_to(root) else f.name, sha256[str(f)])
        for f in files
    ]
    rules = _rules(resolved(listing, data.prepare))
    identity = json.dumps([FORMAT, named, rules, *_own(listing, data.prepare)])
    stem = re.sub(r"\W+", "_", path.stem).strip("_")[:40] or "files"
    return f"{stem}_{_digest(identity)[:12]}"


def prepare(source: str, data: DataConfig, timed: Timed) -> FileDocuments:
    """Writes what is missing of the documents of the files at `source`.

    `timed` measures each stage.

    Raises:
      ValueError: a file is not what its name says or is changed meanwhile, or nothing
        is left of them.
      ModuleNotFoundError: a filter or a format needs a library that is not installed.
    """
    folder = _directory(data) / "files" / name(source, data)
    account = account_of(folder)
    if not account:
        folder.mkdir(parents=True, exist_ok=True)
        filters.rules(data.prepare)  # a wrong one fails before work starts
        listing = finding.find(source, data.prepare.label, cut=True)
        rules = resolved(listing, data.prepare)
        jobs = [
            _Job(file_slice, rules, str(folder), k)
            for k, file_slice in enumerate(listing.slices)
        ]
        with timed("cleaning"):
            workers.run(_clean, jobs, "cleaning", rules.workers)
        with timed("comparing"):
            account = selecting.choose(source, folder, listing, rules)
        if name(source, data) != folder.name:
            folder.rmtree()
            raise changed(source)
        manifest.write_json(folder / "metadata.json", account)
        for line in selecting.report(account, rules):
            print(line, file=sys.stderr)
    for pattern in ("*.npz", ".*.partial"):  # signatures, and what a killed job left
        for file in folder.glob(pattern):
            file.unlink()
    return FileDocuments(folder, account)


def changed(source: str) -> ValueError:
    """The error for files that are others after they were read."""
    return ValueError(
        f"data.source={source!r} was changed while it was read; run "
        f"{manifest.PREPARE} again when nothing writes there"
    )


def resolved(listing: finding.Listing, prepare: PrepareConfig) -> PrepareConfig:
    """The rules with nothing left to the files: see `PrepareConfig.split`."""
    split = prepare.split
    if split is None:
        own = listing.splits != [""]
        split = SPLIT if not own and SPLIT in columns.names(listing) else ""
    return dataclasses.replace(prepare.resolved(), split=split)


def _rules(prepare: PrepareConfig) -> dict[str, Any]:
    """The rules that, with the files, decide what the documents are."""
    others = {"shards", "workers", "cleaning" if prepare.fields else "fields"}
    # from before there were these
    others |= {"split"} if not prepare.split else set()
    others |= {"exact_duplicates"} if prepare.exact_duplicates else set()
    return {k: v for k, v in dataclasses.asdict(prepare).items() if k not in others}


def _own(listing: finding.Listing, prepare: PrepareConfig) -> Iterator[dict[str, Any]]:
    """What else decides it, where the files themselves say something."""
    kinds = Label | Labels | Tags | Spans
    named = any(isinstance(f.type, kinds) for f in prepare.fields)
    if prepare.label or named:
        yield {"labels": LABEL_FORM}
    if numbers := [f.name for f in prepare.fields if isinstance(f.type, Number)]:
        yield {"numbers": numbers}  # whose type has no fields, as a text's
    held_out = selecting.held_out(listing.splits, prepare)
    if listing.named or listing.cut or held_out:
        cut = passages.FORM if listing.cut else 0
        yield {"named": listing.named, "cut": cut, "held_out": held_out}


def _directory(data: DataConfig) -> epath.Path:
    return epath.Path(data.directory).expanduser()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- a slice: in workers -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Job:
    """A slice of the input to be cleaned."""

    file_slice: FileSlice
    prepare: PrepareConfig
    folder: str
    index: int

    @property
    def size(self) -> int:
        return self.file_slice.size

    def done(self) -> bool:
        return signature_file(epath.Path(self.folder), self.index).exists()


def signature_file(folder: epath.Path, index: int) -> epath.Path:
    """The signatures and the account of a slice's documents; written last."""
    return folder / f"{index:06d}.npz"


def _clean(job: _Job) -> None:
    """Reads, cleans and filters a slice; writes its documents and signatures."""
    folder = epath.Path(job.folder)
    counts: Counter[str] = Counter()
    labels: set[str] = set()
    own: list[np.ndarray] = [np.zeros(0, np.int8)]
    order = hashlib.sha256()
    arrays: list[dict[str, np.ndarray]] = [_signatures([], job.prepare)]

    def blocks() -> Iterator[tuple[list[str], list[str | None]]]:
        for texts, names, splits in _blocks(job, counts):
            own.append(np.array([selecting.number(s) for s in splits], np.int8))
            arrays.append(_signatures(texts, job.prepare))
            labels.update(name for name in names if name is not None)
            order.update(json.dumps(names).encode())
            yield texts, names

    final = slice_file(folder, job.index)
    partial = manifest.partial(final)
    write_slice(partial, blocks())
    partial.replace(final)
    columns = {k: np.concatenate([a[k] for a in arrays]) for k in arrays[0]}
    columns["splits"] = np.concatenate(own)
    account = {
        "counts": counts,
        "labels": sorted(labels),
        "labels_sha256": order.hexdigest(),
        "blocks": len(arrays) - 1,
        "documents": len(columns["hashes"]),
        "bytes": int(columns["bytes"].sum()),
    }
    final = signature_file(folder, job.index)
    partial = manifest.partial(final)
    with partial.open("wb") as f:
        text = np.array(json.dumps(account))
        np.savez(f, allow_pickle=False, account=text, **columns)
    partial.replace(final)


def _blocks(
    job: _Job, counts: Counter[str]
) -> Iterator[tuple[list[str], list[str | None], list[str]]]:
    """The documents that keep the rules, their labels and own splits, some at a
    time."""
    texts: list[str] = []
    names: list[str | None] = []
    splits: list[str] = []
    characters = 0
    rules, p = filters.rules(job.prepare), job.prepare
    shortest = p.min_characters or 0
    for raw, name, split in readers.read_split(
        job.file_slice, p.text, p.label, p.split or ""
    ):
        counts["collected"] += 1
        text = steps.clean(raw, p.cleaning)
        if not text or len(text) < shortest:
            counts["dropped_short" if shortest > 1 else "dropped_empty"] += 1
            continue
        broken = next(filter(None, (rule(text) for rule in rules)), "")
        if broken:
            counts[f"dropped_{broken}"] += 1
            continue
        if p.label and name is None:
            counts["unlabelled"] += 1
        texts.append(text)
        names.append(name)
        splits.append(split)
        characters += len(text)
        if characters >= _BLOCK_CHARACTERS:
            yield texts, names, splits
            texts, names, splits, characters = [], [], [], 0
    if texts:
        yield texts, names, splits


def _signatures(texts: list[str], prepare: PrepareConfig) -> dict[str, np.ndarray]:
    """Hashes of documents, uint64 [n, 2], their characters and bytes, int64 [n], and
    MinHash signatures, uint32 [n, size]."""
    columns = {
        "hashes": choice.hashes_of(texts),
        "characters": np.array([len(t) for t in texts], np.int64),
        "bytes": np.array([len(t.encode()) for t in texts], np.int64),
    }
    if prepare.near_duplicates:
        columns["signatures"] = duplicates.signatures(texts)
    return columns
