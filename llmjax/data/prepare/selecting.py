"""Which documents of local files stay, and in which split: of all slices together."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from llmjax.config import PrepareConfig, wording
from llmjax.data.cleaning import choice, duplicates
from llmjax.data.files import finding
from llmjax.data.files import splits as own_splits
from llmjax.data.store import manifest
from llmjax.data.store.documents import split_file

_NUMBER = re.compile(r"-?\d{1,99}(\.\d{1,99})?")
_REASONS = {  # count of an account -> words
    "dropped_empty": "empty",
    "dropped_short": "shorter than {min_characters} characters "
    "(data.prepare.min_characters)",
    "dropped_language": "not in the language {language} (data.prepare.language)",
    "dropped_exact_duplicate": "copies of others (data.prepare.exact_duplicates)",
    "dropped_near_duplicate": "near copies of others (data.prepare.near_duplicates)",
}


def signature_file(folder: epath.Path, index: int) -> epath.Path:
    """The signatures and the account of a slice's documents; written last."""
    return folder / f"{index:06d}.npz"


def number(split: str) -> int:
    """A split that a row names, as arrays hold it; -1 for none."""
    return own_splits.SPLITS.index(split) if split else -1


def held_out(names: list[str], prepare: PrepareConfig) -> tuple[str, ...]:
    """The splits that files have not and that are taken from their training split."""
    shares = {"validation": prepare.validation, "test": prepare.test}
    return own_splits.missing(names, shares)


def dropped(counts: dict[str, int]) -> dict[str, int]:
    """Reason -> how many documents were dropped for it, of an account's `cleaning`."""
    return {
        name.removeprefix("dropped_"): n
        for name, n in counts.items()
        if name.startswith("dropped_") and n
    }


def report(account: dict[str, Any], prepare: PrepareConfig) -> list[str]:
    """Lines that say what was dropped and why, and what was held out."""
    counts, lines = account["cleaning"], []
    source = f"data.source={account['source']!r}"
    fields = {"min_characters": prepare.min_characters, "language": prepare.language}
    reasons = []
    for reason, n in dropped(counts).items():
        usual = f"by the rule {reason} (data.prepare.quality)"
        words = _REASONS.get(f"dropped_{reason}", usual).format(**fields)
        reasons.append(f"{n:,} {words}")
    if reasons:
        kept = f"{counts['kept']:,} of {counts['collected']:,} documents are kept"
        lines.append(f"{source}: {kept}; dropped: {', '.join(reasons)}")
    if n := counts.get("unlabelled", 0):
        lines.append(
            f"{source}: {wording.count(n, 'document')} without a label, which no task "
            "with labels reads"
        )
    for split in account.get("held_out", ()):
        share = getattr(prepare, split)
        lines.append(
            f"{source} has no split {split!r}: {account['documents'][split]:,} "
            f"documents of 'train' are held out (data.prepare.{split}={share})"
        )
    if "tail" in account:
        parts = ", ".join(f"{k} {v:,}" for k, v in account["documents"].items())
        lines.append(
            f"{source} is one text: cut into passages, its end held out ({parts})"
        )
    return lines


def choose(
    source: str, folder: epath.Path, listing: finding.Listing, prepare: PrepareConfig
) -> dict[str, Any]:
    """Drops copies and writes the split of each document beside the slices.

    `prepare`: resolved.
    """
    accounts, columns = _accounts(folder, len(listing.slices))
    lengths = [account["documents"] for account in accounts]
    counts: Counter[str] = sum((Counter(a["counts"]) for a in accounts), Counter())
    splits, own_split = _own_splits(listing, lengths, columns["splits"])
    ranks = (own_split == splits.index("train")) if "train" in splits else own_split * 0
    hashes = columns["hashes"]
    kept = np.arange(len(hashes))
    if prepare.exact_duplicates:
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
    said: dict[str, Any] = {}
    if not splits:
        splits = choice.split_names(prepare)
        if listing.cut:
            said = {"tail": True}
            split[kept] = _tail(columns["bytes"][kept], prepare)
        else:
            split[kept] = choice.divide(hashes[kept], related, prepare)
    elif added := held_out(splits, prepare):
        said = {"held_out": list(added)}
        train = split[kept] == splits.index("train")
        rules = choice.only(prepare, added)
        parts = choice.divide(hashes[kept], related, rules)
        names = choice.split_names(rules)
        splits = [*splits, *added]
        numbers = np.array([splits.index(name) for name in names], np.int8)
        split[kept[train]] = numbers[parts[train]]
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
        **said,
        "parts": [[account["bytes"], account["blocks"]] for account in accounts],
        **_identity(source, accounts, hashes, split, splits, listing.class_names),
    }


def _tail(sizes: np.ndarray, prepare: PrepareConfig) -> np.ndarray:
    """The splits of the passages of one text, by their order: int8 [n].

    The end is held out, of the shares of the bytes, and a passage of each at least.
    """
    shares = [share for share in (prepare.validation, prepare.test) if share > 0]
    ends = 1 - np.cumsum(shares[::-1])[::-1]
    before = np.cumsum(sizes) - sizes
    split = np.searchsorted(ends, before / max(sizes.sum(), 1), "right")
    for k in range(1, len(shares) + 1):  # of a short text
        if len(sizes) > len(shares) and not (split == k).any():
            split[len(sizes) - len(shares) - 1 + k] = k
    return np.maximum.accumulate(split).astype(np.int8)


def _accounts(
    folder: epath.Path, slices: int
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The slices' accounts, and hashes, characters and bytes of all documents."""
    accounts = []
    names = "hashes", "characters", "bytes", "splits"
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for k in range(slices):
        with signature_file(folder, k).open("rb") as f, np.load(f) as arrays:
            accounts.append(json.loads(str(arrays["account"])))
            for column, values in columns.items():
                unknown = column not in arrays  # of an earlier version
                none = np.full(len(arrays["bytes"]), -1, np.int8) if unknown else None
                values.append(arrays[column] if none is None else none)
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
    listing: finding.Listing, lengths: list[int], of_rows: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The names of the files' own splits, and each document's number: int8 [n].

    No names where there are none, or one: the documents are still to be divided.
    """
    names = listing.splits
    if len(names) > 1 and "" not in names:
        numbers = [names.index(file_slice.split) for file_slice in listing.slices]
        return names, np.repeat(numbers, lengths).astype(np.int8)
    there = [k for k in range(len(own_splits.SPLITS)) if (of_rows == k).any()]
    if len(there) > 1:
        return [own_splits.SPLITS[k] for k in there], np.searchsorted(
            there, of_rows
        ).astype(np.int8)
    return [], np.zeros(sum(lengths), np.int8)


class _stacked:  # noqa: N801 - reads as a statement
    """The signatures of the documents `kept` in one file, mapped: uint32 [n, size]."""

    def __init__(self, folder: epath.Path, lengths: list[int], kept: np.ndarray):
        self.folder, self.lengths, self.kept = folder, lengths, kept

    def __enter__(self) -> np.ndarray:
        place = None if "://" in str(self.folder) else self.folder
        self.file = tempfile.TemporaryFile(dir=place)
        start = 0
        for k, length in enumerate(self.lengths):
            with signature_file(self.folder, k).open("rb") as f, np.load(f) as arrays:
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
