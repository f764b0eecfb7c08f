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
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from llmjax.config import DataConfig, PrepareConfig
from llmjax.data.cleaning import choice, duplicates, filters, steps
from llmjax.data.files import finding, readers
from llmjax.data.files.slices import FileSlice
from llmjax.data.prepare import workers
from llmjax.data.store import manifest
from llmjax.data.store.documents import (
    FileDocuments,
    account_of,
    slice_file,
    split_file,
    write_slice,
)

FORMAT = 1  # raise it when the same files become different documents
_NUMBER = re.compile(r"-?\d{1,99}(\.\d{1,99})?")
_BLOCK_CHARACTERS = 1 << 19  # of documents that are written at once

Timed = Callable[[str], contextlib.AbstractContextManager[None]]


def name(source: str, data: DataConfig) -> str:
    """The corpus's name: other files or other rules have another.

    Raises:
      ValueError: nothing there that can be read.
    """
    path = finding.path_of(source)
    files = finding.find(source).files
    root = path if path.is_dir() else path.parent
    cache = _directory(data) / "hashes" / f"{_digest(str(path.absolute()))[:16]}.json"
    sha256 = manifest.hashes(files, cache)
    named = [
        (str(f.relative_to(root)) if f.is_relative_to(root) else f.name, sha256[str(f)])
        for f in files
    ]
    identity = json.dumps([FORMAT, named, _rules(data.prepare)])
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
        listing = finding.find(source, data.prepare.label)
        jobs = [
            _Job(file_slice, data.prepare, str(folder), k)
            for k, file_slice in enumerate(listing.slices)
        ]
        with timed("cleaning"):
            workers.run(_clean, jobs, "cleaning", data.prepare.workers)
        with timed("comparing"):
            account = _choose(source, folder, listing, data.prepare)
        if name(source, data) != folder.name:
            folder.rmtree()
            raise changed(source)
        manifest.write_json(folder / "metadata.json", account)
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


def _rules(prepare: PrepareConfig) -> dict[str, Any]:
    """The rules that, with the files, decide what the documents are."""
    others = {"shards", "workers", "cleaning" if prepare.fields else "fields"}
    return {k: v for k, v in dataclasses.asdict(prepare).items() if k not in others}


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
        return _signature_file(epath.Path(self.folder), self.index).exists()


def _signature_file(folder: epath.Path, index: int) -> epath.Path:
    """The signatures and the account of a slice's documents; written last."""
    return folder / f"{index:06d}.npz"


def _clean(job: _Job) -> None:
    """Reads, cleans and filters a slice; writes its documents and signatures."""
    folder = epath.Path(job.folder)
    counts: Counter[str] = Counter()
    labels: set[str] = set()
    order = hashlib.sha256()
    arrays: list[dict[str, np.ndarray]] = [_signatures([], job.prepare)]

    def blocks() -> Iterator[tuple[list[str], list[str | None]]]:
        for texts, names in _blocks(job, counts):
            arrays.append(_signatures(texts, job.prepare))
            labels.update(name for name in names if name is not None)
            order.update(json.dumps(names).encode())
            yield texts, names

    final = slice_file(folder, job.index)
    partial = manifest.partial(final)
    write_slice(partial, blocks())
    partial.replace(final)
    columns = {k: np.concatenate([a[k] for a in arrays]) for k in arrays[0]}
    account = {
        "counts": counts,
        "labels": sorted(labels),
        "labels_sha256": order.hexdigest(),
        "blocks": len(arrays) - 1,
        "documents": len(columns["hashes"]),
        "bytes": int(columns["bytes"].sum()),
    }
    final = _signature_file(folder, job.index)
    partial = manifest.partial(final)
    with partial.open("wb") as f:
        text = np.array(json.dumps(account))
        np.savez(f, allow_pickle=False, account=text, **columns)
    partial.replace(final)


def _blocks(
    job: _Job, counts: Counter[str]
) -> Iterator[tuple[list[str], list[str | None]]]:
    """The documents that keep the rules, some at a time."""
    texts: list[str] = []
    names: list[str | None] = []
    characters = 0
    rules, p = filters.rules(job.prepare), job.prepare
    for raw, name in readers.read(job.file_slice, p.text, p.label):
        counts["collected"] += 1
        text = steps.clean(raw, p.cleaning)
        if len(text) < job.prepare.min_characters or not text:
            counts["dropped_short"] += 1
            continue
        broken = next(filter(None, (rule(text) for rule in rules)), "")
        if broken:
            counts[f"dropped_{broken}"] += 1
            continue
        texts.append(text)
        names.append(name)
        characters += len(text)
        if characters >= _BLOCK_CHARACTERS:
            yield texts, names
            texts, names, characters = [], [], 0
    if texts:
        yield texts, names


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


# --- all slices: which documents stay, and where -------------------------------------


def _choose(
    source: str, folder: epath.Path, listing: finding.Listing, prepare: PrepareConfig
) -> dict[str, Any]:
    """Drops copies and writes the split of each document beside the slices."""
    accounts, columns = _accounts(folder, len(listing.slices))
    lengths = [account["documents"] for account in accounts]
    counts: Counter[str] = sum((Counter(a["counts"]) for a in accounts), Counter())
    splits, own_split = _own_splits(listing, lengths)
    ranks = (own_split == splits.index("train")) if "train" in splits else own_split * 0
    hashes = columns["hashes"]
    kept = choice.first_copies(hashes, ranks)
    counts["dropped_exact_duplicate"] = len(hashes) - len(kept)
    related = np.zeros(len(kept), bool)
    if prepare.near_duplicates:
        bar = tqdm(total=duplicates.SIGNATURE_BANDS, desc="comparing")
        with bar, _stacked(folder, lengths, kept) as signatures:
            stays, related = choice.unlike(
                signatures, columns["characters"][kept], ranks[kept], bar.update
            )
        counts["dropped_near_duplicate"] = int((~stays).sum())
        kept, related = kept[stays], related[stays]
    split = np.full(len(hashes), -1, np.int8)
    split[kept] = own_split[kept]
    if not splits:
        splits = choice.split_names(prepare)
        split[kept] = choice.divide(hashes[kept], related, prepare)
    counts["kept"] = len(kept)
    _require_documents(source, splits, split, counts)
    start = 0
    for k, length in enumerate(lengths):
        manifest.write_array(split_file(folder, k), split[start : start + length])
        start += length
    sizes = columns["bytes"]
    return {
        "source": source,
        "documents": {s: int((split == k).sum()) for k, s in enumerate(splits)},
        "bytes": {s: int(sizes[split == k].sum()) for k, s in enumerate(splits)},
        "cleaning": dict(counts),
        "parts": [[account["bytes"], account["blocks"]] for account in accounts],
        **_identity(source, accounts, hashes, split, splits, listing.class_names),
    }


def _accounts(
    folder: epath.Path, slices: int
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The slices' accounts, and hashes, characters and bytes of all documents."""
    accounts = []
    columns: dict[str, list[np.ndarray]] = {"hashes": [], "characters": [], "bytes": []}
    for k in range(slices):
        with _signature_file(folder, k).open("rb") as f, np.load(f) as arrays:
            accounts.append(json.loads(str(arrays["account"])))
            for column, values in columns.items():
                values.append(arrays[column])
    return accounts, {name: np.concatenate(values) for name, values in columns.items()}


def _identity(
    source: str,
    accounts: list[dict[str, Any]],
    hashes: np.ndarray,
    split: np.ndarray,
    splits: list[str],
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """The fields, the classes, and a hash of all documents.

    Raises:
      ValueError: a label is none of the classes that the dataset names.
    """
    labels = sorted({n for a in accounts for n in a["labels"]}, key=natural)
    names = class_names or tuple(labels)
    numbers = {str(k): k for k in range(len(class_names))}
    unknown = [n for n in labels if class_names and n not in {*numbers, "-1"}]
    if unknown:
        raise ValueError(
            f"data.source={source!r} has the label {unknown[0]!r} and names "
            f"{len(names)} classes ({', '.join(names[:8])}); accepted: their numbers "
            f"0 to {len(names) - 1}, and -1 for none"
        )
    content = hashlib.sha256(hashes.tobytes() + split.tobytes())
    order = [account["labels_sha256"] for account in accounts]
    content.update(json.dumps([splits, names, order]).encode())
    return {
        "content_sha256": content.hexdigest(),
        "fields": ["text"],
        "class_names": list(names),
        "labels": numbers or {name: k for k, name in enumerate(names)},
    }


def natural(name: str) -> tuple[bool, int | float, str]:
    """A key to sort by: numbers in their order, before words."""
    if not _NUMBER.fullmatch(name):
        return True, 0, name
    return False, float(name) if "." in name else int(name), name


def _own_splits(
    listing: finding.Listing, lengths: list[int]
) -> tuple[list[str], np.ndarray]:
    """The names of the files' own splits, and each document's number: int8 [n].

    No names where there are none, or one: the documents are still to be divided.
    """
    names = [*dict.fromkeys(file_slice.split for file_slice in listing.slices)]
    if len(names) == 1 or "" in names:
        return [], np.zeros(sum(lengths), np.int8)
    numbers = [names.index(file_slice.split) for file_slice in listing.slices]
    return names, np.repeat(numbers, lengths).astype(np.int8)


class _stacked:  # noqa: N801 - reads as a statement
    """The signatures of the documents `kept` in one file, mapped: uint32 [n, size]."""

    def __init__(self, folder: epath.Path, lengths: list[int], kept: np.ndarray):
        self.folder, self.lengths, self.kept = folder, lengths, kept

    def __enter__(self) -> np.ndarray:
        place = None if "://" in str(self.folder) else self.folder
        self.file = tempfile.TemporaryFile(dir=place)
        start = 0
        for k, length in enumerate(self.lengths):
            with _signature_file(self.folder, k).open("rb") as f, np.load(f) as arrays:
                a, b = np.searchsorted(self.kept, [start, start + length])
                rows = arrays["signatures"][self.kept[a:b] - start]
                self.file.write(rows.tobytes())
            start += length
        self.file.flush()
        size = duplicates.SIGNATURE_BANDS * duplicates.SIGNATURE_ROWS
        shape = (len(self.kept), size)
        if not len(self.kept):
            return np.zeros(shape, np.uint32)
        return np.memmap(self.file, np.uint32, "r", shape=shape)

    def __exit__(self, *exc: Any) -> None:
        self.file.close()


def _require_documents(
    source: str, splits: list[str], split: np.ndarray, counts: Counter[str]
) -> None:
    totals = ", ".join(f"{key} {value}" for key, value in sorted(counts.items()))
    if not (split >= 0).any():
        raise ValueError(
            f"data.source={source!r}: no document is left ({totals}); loosen "
            "data.prepare.min_characters, .language or .quality"
        )
    for k, name in enumerate(splits):
        if not (split == k).any():
            share = name in ("validation", "test")
            raise ValueError(
                f"data.source={source!r} has too few documents: {totals} leave none "
                f"for the split {name!r}; give it some dozens, cut long texts"
                + (f", or set data.prepare.{name}=0" if share else "")
            )
