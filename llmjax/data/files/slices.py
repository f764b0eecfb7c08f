"""Slices of the input, its rows, and errors that name a place in it."""

import dataclasses
import decimal
import itertools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

SLICE_BYTES = 8 << 20  # of input, roughly, that one job reads
BLOCK = 1024  # rows that are read at a time

LabelledText = tuple[str, str | None]  # text, name of the class
TEXT_FORMATS = (
    "txt",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "conll",
)  # also packed as .gz or .zst
FORMATS = (*TEXT_FORMATS, "parquet", "array_record")
LABEL_FORM = 2  # raise it when the same labels get other names
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
Columns = Mapping[str, str]  # column of a file -> the config key that names it


@dataclasses.dataclass(frozen=True)
class FileSlice:
    """Whole files, or what lies between two positions of one.

    Attributes:
      files: one, or of format "txt" several.
      format: one of `FORMATS`, or "arrow", or "passages" of a single large .txt.
      start, stop: bytes of an unpacked .jsonl or of passages, row groups of a
        .parquet, batches of an .arrow, records of an .array_record; of the others
        everything.
      split: the name that the files give; "" where documents are still to be divided.
      size: bytes, roughly.
    """

    files: tuple[str, ...]
    format: str
    start: int = 0
    stop: int = sys.maxsize
    split: str = ""
    size: int = 0


class Row(NamedTuple):
    """The values of a row by column, and where it lies, for messages."""

    values: dict[str, Any]
    where: Callable[[], str]


def evenly(n: int, size: int) -> list[tuple[int, int]]:
    """0 to n in runs of about `SLICE_BYTES`, where all of it takes `size` bytes."""
    count = max(1, min(n, -(-size // SLICE_BYTES)))
    edges = [n * k // count for k in range(count + 1)]
    return list(itertools.pairwise(edges))


def require_columns(where: str, columns: Columns, there: Iterable[str]) -> None:
    """Raises ValueError for a column that is not there, or more than once."""
    there = list(there)
    for column, key in columns.items():
        if column not in there:
            raise ValueError(
                f"{where} has no field {column!r}; it has "
                f"{', '.join(map(repr, there))}: set {key} to one of them"
            )
        if there.count(column) > 1:
            raise ValueError(
                f"{where} has {there.count(column)} fields {column!r}; rename all but "
                "one of them"
            )


def no_text(where: str, field: str, kind: str) -> ValueError:
    """The error for a field that holds something else."""
    return ValueError(
        f"{where}: the field {field!r} is {kind} and no text; set data.prepare.text to "
        "the field that holds it"
    )


def damaged(file: Any, form: str, e: Exception) -> ValueError:
    """The error for a file that its library cannot read."""
    reason = " ".join(str(e).split())
    return ValueError(
        f"{file} is no whole {form} file ({reason}); fetch or write it again"
    )


def unreadable(file: Any, e: OSError) -> ValueError:
    """The error for a file that the system does not give."""
    reason = e.strerror or str(e)
    return ValueError(f"{file} cannot be read ({reason}); mend that or take it out")


def label_name(value: Any) -> str | None:
    """The name of the class of a label as a file has it.

    1, 1.0 and "1.0", as pandas writes numbers in a column with gaps, are one class; so
    are names that differ only in white space around them or in Unicode's form. None, ""
    and NaN, which pandas has for nothing, are none.

    Raises:
      ValueError: it is a list, an object or bytes.
    """
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"{type(value).__name__} and no class")
    if isinstance(value, str):
        name = unicodedata.normalize("NFC", value.strip())
        whole = _WHOLE.fullmatch(name)
        return (whole[1] if whole else name) or None
    if value is None or value != value:
        return None
    if isinstance(value, float | decimal.Decimal) and value % 1 == 0:
        value = int(value)
    return str(value)
