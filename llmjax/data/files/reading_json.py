"""Files of JSON objects as rows: .jsonl and .json, also packed as .gz or .zst."""

import codecs
import functools
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from llmjax.data.files import streams
from llmjax.data.files.slices import Columns, FileSlice, Row, require_columns
from llmjax.data.files.streams import LINE_BYTES

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # as JSON escapes a half of a pair
_SPACE = re.compile(r"[ \t\r\n]*")
_CHARACTERS = 1 << 20  # of a .json, read at a time
_DECODER = json.JSONDecoder()


def jsonl(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """The lines that begin in a slice of a .jsonl.

    Raises:
      ValueError: a line is no JSON object with those columns, or too long; says which.
    """
    file, position = file_slice.files[0], file_slice.start
    with streams.opened(file) as stream:
        if position:  # the line before is another slice's
            stream.seek(position - 1)
            position += _rest_of_line(stream) - 1
        while position < file_slice.stop:
            line = stream.readline(LINE_BYTES + 1)
            if not line:
                return
            if len(line) > LINE_BYTES:
                raise streams.too_long(_where(file, position), "the line")
            if position == 0:
                streams.refuse_binary(file, line[:4096])
            if line.strip():
                yield _row(line, file, position, columns)
            position += len(line)


def _rest_of_line(stream: Any) -> int:
    """Reads to the end of a line; gives the bytes that were left of it."""
    length = 0
    while part := stream.readline(1 << 20):
        length += len(part)
        if part.endswith(b"\n"):
            break
    return length


def _row(line: bytes, file: str, position: int, columns: Columns) -> Row:
    where = functools.partial(_where, file, position)
    first = next(iter(columns))
    try:
        values = _loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as e:
        raise streams.not_utf8(file, position + e.start) from None
    except _JsonError as e:
        raise ValueError(
            f"{where()} is not JSON ({e}); each line must be an object "
            f'such as {{"{first}": "..."}}'
        ) from None
    return _checked(values, where, columns, bool(_SURROGATE.search(line)))


def objects(file: str, columns: Columns) -> Iterator[Row]:
    """The objects of a .json: of an array, of lines, or a single one.

    Raises:
      ValueError: it is not that, or an object lacks a column or is too long; says which
        one.
    """
    with streams.opened(file) as stream:
        streams.refuse_binary(file, stream.read(4096))
    with streams.opened(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        try:
            for number, value in enumerate(_values(text, file), 1):
                for place, row in squad_rows(value):
                    where = functools.partial(_object, file, number, place)
                    yield _checked(row, where, columns, True)
        except UnicodeDecodeError:
            with streams.opened(file) as again:
                raise streams.not_utf8(file, streams.first_invalid(again)) from None


def _object(file: str, number: int, place: str) -> str:
    return f"{file}, {place}" if place else f"{file}, object {number}"


def squad_rows(value: Any) -> Iterator[tuple[str, Any]]:
    """Questions of a file of SQuAD's form, each with its place; else the value itself.

    A row has `id`, `title`, `context`, `question` and `answers`.
    """
    articles = value.get("data") if isinstance(value, dict) else None
    if not articles or not isinstance(articles, list):
        yield "", value
        return
    if not all(map(_is_article, articles)):
        yield "", value
        return
    for article in articles:
        title = article.get("title", "")
        for paragraph in article["paragraphs"]:
            for asked in paragraph.get("qas", ()):
                own = {k: asked.get(k) for k in ("id", "question", "answers")}
                row = {"title": title, "context": paragraph.get("context"), **own}
                yield f"title {title!r}, question {asked.get('id')!r}", row


def _is_article(value: Any) -> bool:
    """Whether a value is an article of SQuAD, with paragraphs of questions."""
    paragraphs = value.get("paragraphs") if isinstance(value, dict) else None
    return isinstance(paragraphs, list) and all(
        isinstance(p, dict) and all(isinstance(q, dict) for q in p.get("qas", ()))
        for p in paragraphs
    )


def first_keys(file: str, form: str) -> list[str]:
    """The keys of the first object of a .jsonl or .json."""
    with streams.opened(file) as stream:
        if form == "jsonl":
            lines = iter(lambda: stream.readline(LINE_BYTES), b"")
            line = next((line for line in lines if line.strip()), b"{}")
            values = json.loads(line.removeprefix(codecs.BOM_UTF8))
        else:
            text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
            values = next(_values(text, file), {})
            values = next(squad_rows(values), ("", {}))[1]
    return list(values) if isinstance(values, dict) else []


def _values(text: io.TextIOWrapper, file: str) -> Iterator[Any]:
    """The values of an array, or those that stand one after another."""
    buffer = _Buffer(text, file)
    in_array = buffer.take("[")
    if in_array and buffer.take("]"):
        buffer.require_end()
        return
    while buffer.more():
        yield buffer.value()
        if in_array and not buffer.take(","):
            buffer.require("]")
            buffer.require_end()
            return
    if in_array:
        buffer.require("]")


class _Buffer:
    """The part of a .json that was read and not yet taken."""

    def __init__(self, text: io.TextIOWrapper, file: str):
        self._text, self._file = text, file
        self._data, self._at, self._number = "", 0, 0

    def more(self) -> bool:
        """Whether anything but white space is left; moves there."""
        while True:
            end = _SPACE.match(self._data, self._at)
            assert end is not None
            self._at = end.end()
            if self._at < len(self._data) or not self._read():
                return self._at < len(self._data)

    def take(self, sign: str) -> bool:
        """Whether the next character is this one; moves behind it."""
        taken = self.more() and self._data[self._at] == sign
        self._at += taken
        return taken

    def require(self, sign: str) -> None:
        """Raises ValueError unless the next character is this one."""
        if not self.take(sign):
            raise self._error(f"{sign!r} is missing behind it")

    def require_end(self) -> None:
        """Raises ValueError where something follows."""
        if self.more():
            raise self._error("something follows the array's end")

    def value(self) -> Any:
        """The next value, an object."""
        self._number += 1
        if self._data[self._at] != "{":
            raise self._error(f"it begins with {self._data[self._at]!r}")
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._data, self._at)
                return value
            except json.JSONDecodeError as e:
                cut = e.pos > len(self._data) - 16 or e.msg.startswith("Unterminated")
                # As much again each time: all tries take no longer than the last.
                if not cut or not self._read(len(self._data) - self._at):
                    raise self._error(e.msg) from None
            except (RecursionError, ValueError) as e:
                raise self._error(_reason(e)) from None

    def _read(self, size: int = 0) -> bool:
        rest = self._data[self._at :]
        if len(rest) > LINE_BYTES:
            where = f"{self._file}, object {self._number}"
            raise streams.too_long(where, "the object")
        size = max(_CHARACTERS, min(size, LINE_BYTES))
        more = self._text.read(size)
        self._data, self._at = rest + more, 0
        return bool(more)

    def _error(self, reason: str) -> ValueError:
        return ValueError(
            f"{self._file}, object {self._number} is not JSON as it is read here "
            f"({reason}); a .json must be an array of objects, an object per line, or "
            "one object"
        )


class _JsonError(Exception):
    """The reason why a text is no JSON."""


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as e:
        raise _JsonError(_reason(e)) from None


def _reason(e: Exception) -> str:
    if isinstance(e, RecursionError):
        return "it is nested too deep"
    if isinstance(e, json.JSONDecodeError):
        return str(e)
    return str(e).partition(";")[0]  # a number of more digits than Python reads


def _checked(
    values: Any, where: functools.partial[str], columns: Columns, escapes: bool
) -> Row:
    """The row of an object; `escapes`: whether it may hold halves of pairs."""
    if not isinstance(values, dict):
        raise ValueError(
            f"{where()} is {type(values).__name__} and no object such as "
            f'{{"{next(iter(columns))}": "..."}}'
        )
    if not columns.keys() <= values.keys():
        require_columns(where(), columns, values)
    for column in columns if escapes else ():
        try:
            json.dumps(values[column], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{where()}: the field {column!r} has half of a surrogate pair (U+D800 "
                "to U+DFFF), which is no character; mend it, for instance with U+FFFD"
            ) from None
    return Row(values, where)


def _where(file: str, position: int) -> str:
    return f"{file}, line {streams.line_number(file, position)}"
