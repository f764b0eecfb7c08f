"""A single large .txt as documents: passages, cut where a blank line is.

Where it is cut depends on the file alone. A passage has some thousand characters, fewer
in a short file, so that a tail can be held out.
"""

import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from llmjax.data.files import reading_text, streams
from llmjax.data.files.slices import Columns, FileSlice, Row

FORM = 1  # raise it when the same file is cut elsewhere
MOST, LEAST, COUNT = 8192, 512, 100  # characters of a passage; passages to have
_WINDOW = 1 << 16  # bytes in which an end is looked for
# ends of a passage, the best first
_ENDS = (r"\n[ \t\r]*\n\s*", r"\n", r"[.!?]\s+", r"\s+")
_PATTERNS = tuple(re.compile(end) for end in _ENDS)
_BYTES = tuple(re.compile(end.encode()) for end in _ENDS)


def rows(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """The passages of a slice, in the first column.

    Raises:
      ValueError: it is no UTF-8 text; says where.
    """
    (file,) = file_slice.files
    first, *others = columns
    passages = _cut(_text(file_slice), _length(file))
    for number, passage in enumerate(passages, 1):
        where = f"{file}, passage {number} from byte {file_slice.start}"
        values = {first: passage, **dict.fromkeys(others)}
        yield Row(values, functools.partial(str, where))


def _length(file: str) -> int:
    """The characters of a passage of a file, by its size."""
    return min(MOST, max(LEAST, os.path.getsize(file) // COUNT))


def _text(file_slice: FileSlice) -> str:
    """The text between the ends of passages that follow a slice's start and stop."""
    (file,) = file_slice.files
    size = os.path.getsize(file)
    if file_slice.start == 0 and file_slice.stop >= size:
        return reading_text.text_file(file)
    with streams.opened(file) as stream:
        start = _end_behind(stream, file_slice.start)
        stop = size if file_slice.stop >= size else _end_behind(stream, file_slice.stop)
        stream.seek(start)
        data = stream.read(stop - start)
    streams.refuse_binary(file, data)
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        raise streams.not_utf8(file, start + e.start) from None


def _end_behind(stream: Any, position: int) -> int:
    """The first end of a passage at or behind a position in the bytes."""
    if position == 0:
        return 0
    stream.seek(position)
    data = stream.read(_WINDOW)
    for pattern in _BYTES:
        if match := pattern.search(data):
            return position + match.end()
    inside = next((k for k, b in enumerate(data[:4]) if b & 0xC0 != 0x80), 0)
    return position + inside  # of no character's middle


def _cut(text: str, length: int) -> Iterator[str]:
    start = 0
    while len(text) - start > 2 * length:
        low, high = start + length, start + 2 * length
        ends = (p.search(text, low, high) for p in _PATTERNS)
        stop = next((m.end() for m in ends if m), low)
        if passage := text[start:stop].strip("\r\n"):
            yield passage
        start = stop
    if rest := text[start:].strip("\r\n"):
        yield rest
