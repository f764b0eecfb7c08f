"""The rows that `predict` reads and writes."""

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from llmjax.data.files import finding, readers, reading_text
from llmjax.data.files.slices import FileSlice, Row

DIGITS = 6  # behind the point


def is_value(value: Any, words: bool) -> bool:
    """Whether a value is a text, or where they are read a list of words; a list of
    messages too, which its task looks at."""
    if words and isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return True
    if words and isinstance(value, list):
        return all(isinstance(word, str) and word.strip() for word in value)
    return isinstance(value, str)


def rows_of(
    name: str,
    columns: Mapping[str, str],
    keep: Iterable[str],
    words: bool = False,
    values: Collection[str] = (),
) -> Iterator[Row]:
    """The rows of the files at a path, each with a text in all columns.

    Args:
      name: the path.
      columns: input of the task -> its column.
      keep: other columns.
      words: whether a list of words is read too.
      values: inputs that are no texts, which the task reads.

    Raises:
      ValueError: nothing there that can be read, or a row without a text; it names the
        file and the line.
    """
    if not finding.exists(name):
        raise ValueError(f"--input={name} is not there: {finding.missing(name)}")
    keys = dict.fromkeys(columns.values(), "--text")
    keys = keys | {name: "--keep" for name in keep if name not in keys}
    slices = finding.find(name).slices
    texts = [column for k, column in columns.items() if k not in values]
    return rows_of_slices(slices, keys, texts, words)


def rows_of_slices(
    slices: Iterable[FileSlice],
    keys: Mapping[str, str],
    texts: list[str],
    words: bool = False,
) -> Iterator[Row]:
    """The rows of slices, one after another.

    Args:
      slices: of files.
      keys: column -> the flag that names it.
      texts: the columns that hold texts.
      words: see `rows_of`.

    Raises:
      ValueError: see `rows_of`.
    """
    for file_slice in slices:
        if file_slice.format == "txt":
            each = (
                reading_text.lines(file, next(iter(keys))) for file in file_slice.files
            )
            rows: Iterator[Row] = itertools.chain.from_iterable(each)
        else:
            rows = readers.rows(file_slice, keys)
        for row in rows:
            for name in texts:
                if not is_value(row.values[name], words):
                    kind = type(row.values[name]).__name__
                    raise ValueError(
                        f"{row.where()}: the field {name!r} is {kind} and no "
                        f"{'text or list of words' if words else 'text'}; mend it, or "
                        "name the column of the texts in --text"
                    )
            yield row


def as_written(value: Any, nests: bool) -> Any:
    """A value of the input as the output has it: text where JSON has no form for it.

    Where the output nests no values, lists and objects are JSON in a cell.
    """
    text = json.dumps(value, ensure_ascii=False, default=text_of)
    value = json.loads(text, parse_constant=lambda name: None)  # NaN and the like
    if isinstance(value, dict | list) and not nests:
        return json.dumps(value, ensure_ascii=False)
    return value


def text_of(value: Any) -> str:
    """A date, a number of exact decimals or bytes as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def rounded(value: Any) -> Any:
    """Numbers as they are written."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, DIGITS) if isinstance(value, float) else value
