"""Files of many formats as rows, in slices of bounded size.

.txt (a document per file), .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet, .array_record
(UTF-8 text, or examples of TFDS), and the folder of a Hugging Face dataset saved to
disk. Where the slices begin depends on the files alone.
"""

import dataclasses
import functools
import glob
import pathlib
import re
from collections.abc import Iterable, Iterator

from llmjax.data.files import reading_tables, reading_text
from llmjax.data.files.slices import (
    BLOCK,
    FORMATS,
    SLICE_BYTES,
    Columns,
    FileSlice,
    LabelledText,
    Row,
    evenly,
    label_name,
    no_text,
)

_SHARD = re.compile(r"(?:-(\w+))?\.array_record(?:-\d+-of-\d+)?$")
_ACCEPTED = ", ".join(f".{f}" for f in FORMATS)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files at a path, and the same in slices."""

    files: tuple[pathlib.Path, ...]
    slices: tuple[FileSlice, ...]
    class_names: tuple[str, ...] = ()  # where the dataset names its classes


def exists(source: str) -> bool:
    """Whether a file or folder is at a path, or matches a glob."""
    return bool(source) and bool(glob.glob(str(pathlib.Path(source).expanduser())))


def find(source: str, label: str = "") -> Listing:
    """The files at a path: a file, a folder, or a glob.

    Args:
      source: the path.
      label: the field whose class names to read, of a dataset that has them.

    Raises:
      ValueError: nothing there that can be read, or an empty file; names it.
    """
    path = pathlib.Path(source).expanduser()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return Listing(*reading_tables.saved_to_disk(path, label))
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if f.is_file() and _format(f)]
    else:
        files = [pathlib.Path(p) for p in sorted(glob.glob(str(path)))]
    if not files:
        raise ValueError(
            f"data.source={source!r} holds no file that can be read; accepted: "
            f"{_ACCEPTED}, or a Hugging Face dataset saved to disk"
        )
    slices: list[FileSlice] = []
    texts: list[tuple[str, int]] = []
    for file in files:
        form, size = _format(file), file.stat().st_size
        if not form:
            raise ValueError(
                f"{file} is of no format that can be read; accepted: {_ACCEPTED}"
            )
        if size == 0:
            raise ValueError(f"{file} is empty; delete it, or write it again")
        if form == "txt":
            texts.append((str(file), size))
        else:
            slices += _slices(file, form, size)
    names = reading_tables.class_names(path, label) if label else ()
    return Listing(tuple(files), (*_grouped(texts), *slices), names)


def rows(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """The rows of a slice, with the values of these columns at least.

    A .txt, or an .array_record of texts, has its text in the first column.

    Raises:
      ValueError: a file is not what its name says, or lacks a column; says where and
        what to do.
    """
    if file_slice.format == "txt":
        others = dict.fromkeys(columns)
        first = next(iter(columns))
        return (
            Row({**others, first: reading_text.text_file(f)}, functools.partial(str, f))
            for f in file_slice.files
        )
    if file_slice.format.startswith("jsonl"):
        return reading_text.jsonl(file_slice, columns)
    if file_slice.format == "csv":
        return reading_text.rows(file_slice.files[0], columns)
    if file_slice.format == "array_record":
        return reading_tables.array_record(file_slice, columns)
    return reading_tables.table(file_slice, columns)


def read(file_slice: FileSlice, text: str, label: str) -> Iterator[LabelledText]:
    """The texts of a slice with their labels; `label`: "" for none.

    Raises:
      ValueError: as `rows`, or the field `text` holds something else.
    """
    columns = {text: "data.prepare.text"}
    if label:
        columns.setdefault(label, "data.prepare.label")
    for row in rows(file_slice, columns):
        value = row.values[text]
        if not isinstance(value, str | None):
            raise no_text(row.where(), text, type(value).__name__)
        yield value or "", label_name(row.values[label]) if label else None


def _format(file: pathlib.Path) -> str:
    """One of `FORMATS`, or ""."""
    if _SHARD.search(file.name):
        return "array_record"
    return next((f for f in FORMATS if file.name.endswith(f".{f}")), "")


def _slices(file: pathlib.Path, form: str, size: int) -> Iterator[FileSlice]:
    """The slices of one file."""
    match = _SHARD.search(file.name)
    split = (match[1] or "") if match else ""
    n = 1  # what is compressed or quoted is read from its beginning to its end
    if form == "jsonl":
        n = size
    elif form == "parquet":
        n = reading_tables.row_groups(file)
    elif form == "array_record":
        n = reading_tables.num_records(file)
    runs = evenly(n, size)
    for start, stop in runs:
        yield FileSlice((str(file),), form, start, stop, split, size // len(runs))


def _grouped(texts: Iterable[tuple[str, int]]) -> Iterator[FileSlice]:
    """Single files gathered to slices of some size."""
    files: list[str] = []
    total = 0
    for file, size in texts:
        files.append(file)
        total += size
        if total >= SLICE_BYTES or len(files) >= BLOCK:
            yield FileSlice(tuple(files), "txt", size=total)
            files, total = [], 0
    if files:
        yield FileSlice(tuple(files), "txt", size=total)
