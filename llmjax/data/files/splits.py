"""Splits that files give themselves: by their names, or in a field of their rows."""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

SPLITS = ("train", "validation", "test")
_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
# train.csv, train-00000-of-00002.parquet, train_1.jsonl.gz
_NAME = re.compile(r"([a-z]+)([-_.]?\d+([-_.]?of[-_.]?\d+)?)?\.[a-z_]+(\.(gz|zst))?")


def named(root: pathlib.Path, files: Sequence[pathlib.Path]) -> dict[str, str]:
    """File -> the split that its name or its folder's says; {}: they say none.

    Raises:
      ValueError: some files are of splits, others of none.
    """
    of = {str(file): _of_file(root, file) for file in files}
    names = set(of.values()) - {""}
    if "train" not in names or len(names) < 2:
        return {}
    for file, split in of.items():
        if not split:
            raise ValueError(
                f"{root} has files of the splits {', '.join(sorted(names))}, and "
                f"{file}, whose name says none of {', '.join(SPLITS)}; rename it, or "
                "take it out"
            )
    return of


def _of_file(root: pathlib.Path, file: pathlib.Path) -> str:
    match = _NAME.fullmatch(file.name.lower())
    if match and match[1] in _WORDS:
        return _WORDS[match[1]]
    inside = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    return next((_WORDS[p.lower()] for p in inside if p.lower() in _WORDS), "")


def of_row(value: Any, where: Callable[[], str], column: str) -> str:
    """The split that a row's field says.

    Raises:
      ValueError: it says none.
    """
    split = _WORDS.get(str(value).strip().lower(), "")
    if not split:
        raise ValueError(
            f"{where()}: the field {column!r} is {value!r} and no split; accepted: "
            f"{', '.join(_WORDS)}. Set data.prepare.split to another field, or to '' "
            "to divide the rows by their hashes"
        )
    return split


def missing(names: Sequence[str], shares: dict[str, float]) -> tuple[str, ...]:
    """The splits that are to be held out of the training split, as none was given."""
    if "train" not in names or not set(names) <= set(SPLITS):
        return ()
    return tuple(s for s in SPLITS[1:] if s not in names and shares[s] > 0)
