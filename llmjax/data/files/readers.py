"""Slices of files of many formats as rows.

.txt (a document per file), .jsonl, .json, .csv, .tsv, .conll, each also .gz or .zst,
.parquet, .array_record (UTF-8 text, or examples of TFDS), and the .arrow of a Hugging
Face dataset saved to disk.
"""

import functools
from collections.abc import Iterator

from llmjax.data.files import (
    passages,
    reading_conll,
    reading_json,
    reading_tables,
    reading_text,
    splits,
)
from llmjax.data.files.slices import (
    Columns,
    FileSlice,
    LabelledText,
    Row,
    label_name,
    no_text,
)


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
    if file_slice.format == "passages":
        return passages.rows(file_slice, columns)
    if file_slice.format == "jsonl":
        return reading_json.jsonl(file_slice, columns)
    if file_slice.format == "json":
        return reading_json.objects(file_slice.files[0], columns)
    if file_slice.format in ("csv", "tsv"):
        return reading_text.rows(file_slice.files[0], columns)
    if file_slice.format == "conll":
        return reading_conll.rows(file_slice.files[0], columns)
    if file_slice.format == "array_record":
        return reading_tables.array_record(file_slice, columns)
    return reading_tables.table(file_slice, columns)


def read(file_slice: FileSlice, text: str, label: str) -> Iterator[LabelledText]:
    """The texts of a slice with their labels; see `read_split`."""
    for value, name, _ in read_split(file_slice, text, label, ""):
        yield value, name


def read_split(
    file_slice: FileSlice, text: str, label: str, split: str
) -> Iterator[tuple[str, str | None, str]]:
    """The texts of a slice, with their labels and the splits that they name.

    Args:
      file_slice: the slice.
      text, label, split: fields; of the latter two "" for none.

    Raises:
      ValueError: as `rows`, or a field holds no text, no class or no split.
    """
    columns = {text: "data.prepare.text"}
    if label:
        columns.setdefault(label, "data.prepare.label")
    if split:
        columns.setdefault(split, "data.prepare.split")
    for row in rows(file_slice, columns):
        value = row.values[text]
        if not isinstance(value, str | None):
            raise no_text(row.where(), text, type(value).__name__)
        try:
            name = label_name(row.values[label]) if label else None
        except ValueError as e:
            raise ValueError(
                f"{row.where()}: the field {label!r} is {e}; set data.prepare.label to "
                "a field of names or numbers"
            ) from None
        own = splits.of_row(row.values[split], row.where, split) if split else ""
        yield value or "", name, own
