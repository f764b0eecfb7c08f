"""Parts of the input: what one task reads, and what is wrong with it."""

import dataclasses
import itertools
import sys
from typing import Any

PART_BYTES = 8 << 20  # of input, roughly, that one task reads
BLOCK = 1024  # records that are read at a time

Record = tuple[str, str | None]  # text, label
FORMATS = ("txt", "jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet", "array_record")


@dataclasses.dataclass(frozen=True)
class Part:
    """Files, or of a single file what lies between two positions.

    Attributes:
      files: one, or of format "txt" several.
      format: one of `FORMATS`, or "arrow".
      start, stop: bytes of a .jsonl, row groups of a .parquet, batches of an .arrow,
        records of an .array_record; of the others everything.
      split: "" where a split is still to be found.
      size: bytes, roughly.
    """

    files: tuple[str, ...]
    format: str
    start: int = 0
    stop: int = sys.maxsize
    split: str = ""
    size: int = 0


def evenly(n: int, size: int) -> list[tuple[int, int]]:
    """0 to n in runs of about `PART_BYTES`, where all of it takes `size` bytes."""
    count = max(1, min(n, -(-size // PART_BYTES)))
    edges = [n * k // count for k in range(count + 1)]
    return list(itertools.pairwise(edges))


def no_field(where: str, field: str, is_text: bool, there: list[str]) -> ValueError:
    """For a field that a record lacks."""
    key = "text" if is_text else "label"
    return ValueError(
        f"{where} has no field {field!r}; it has {', '.join(map(repr, there))}: set "
        f"data.prepare.{key} to one of them"
    )


def no_text(where: str, field: str, kind: str) -> ValueError:
    """For a field that holds something else."""
    return ValueError(
        f"{where}: the field {field!r} is {kind} and no text; set data.prepare.text to "
        "the field that holds it"
    )


def damaged(file: Any, form: str, e: Exception) -> ValueError:
    """For a file that its library cannot read."""
    return ValueError(f"{file} is no whole {form} file ({e}); fetch or write it again")


def label_name(value: Any) -> str | None:
    """A label's name; None for no class."""
    return None if value is None or value == "" or value == -1 else str(value)
