"""Text files as records: .txt, .jsonl (.gz, .zst), .csv."""

import codecs
import csv
import gzip
import io
import json
import pathlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from llmjax.data.files.parts import Part, Record, damaged, label_name, no_field, no_text


def text_file(file: str) -> str:
    """The whole of a .txt file.

    Raises:
      ValueError: it is binary, or not UTF-8; says where.
    """
    data = pathlib.Path(file).read_bytes()
    _refuse_binary(file, data[:4096])
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise _not_utf8(file, e.start) from None


def jsonl(part: Part, text: str, label: str) -> Iterator[Record]:
    """The lines that begin between two positions of a .jsonl, or all of a compressed.

    Raises:
      ValueError: a line is no JSON object with those fields; says which.
      ModuleNotFoundError: a .zst without zstandard.
    """
    file, position = part.files[0], part.start
    try:
        with _opened(file) as stream:
            if position:  # the line before is another part's
                stream.seek(position - 1)
                position += len(stream.readline()) - 1
            while position < part.stop or part.format != "jsonl":
                line = stream.readline()
                if not line:
                    return
                if position == 0:
                    _refuse_binary(file, line[:4096])
                if line.strip():
                    yield _record(line, file, position, text, label)
                position += len(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise damaged(file, "gzip", e) from e
    except Exception as e:
        if type(e).__name__ != "ZstdError":  # its class is not here without the library
            raise
        raise damaged(file, "zstandard", e) from e


def _record(line: bytes, file: str, position: int, text: str, label: str) -> Record:
    try:
        found = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as e:
        raise _not_utf8(file, position + e.start) from None
    except json.JSONDecodeError as e:
        raise ValueError(
            f"{_where(file, position)} is not JSON ({e}); each line must be an object "
            f'such as {{"{text}": "..."}}'
        ) from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{_where(file, position)} is {type(found).__name__} and no object such as "
            f'{{"{text}": "..."}}'
        )
    for field in (text, label):
        if field and field not in found:
            raise no_field(_where(file, position), field, field == text, list(found))
    value = found[text]
    if not isinstance(value, str | None):
        raise no_text(_where(file, position), text, type(value).__name__)
    return value or "", label_name(found[label]) if label else None


def rows(file: str, text: str, label: str) -> Iterator[Record]:
    """The rows of a .csv whose first line names the fields.

    Raises:
      ValueError: a field is missing, a row has more or fewer; says which line.
    """
    csv.field_size_limit(sys.maxsize)
    with open(file, "rb") as stream:
        _refuse_binary(file, stream.read(4096))
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            for field in (text, label):
                if field and field not in header:
                    raise no_field(f"{file}, line 1", field, field == text, header)
            place = header.index(text)
            label_place = header.index(label) if label else None
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"{file}, line {reader.line_num} has {len(row)} fields and the "
                        f"header {len(header)}; quote fields that hold a comma or a "
                        "line break"
                    )
                if row:
                    name = None if label_place is None else row[label_place]
                    yield row[place], label_name(name)
        except UnicodeDecodeError:
            with open(file, "rb") as stream:
                raise _not_utf8(file, _first_invalid(stream)) from None
        except csv.Error as e:
            raise ValueError(
                f"{file}, line {reader.line_num} is no CSV ({e}); mend it, or write it "
                "as .jsonl"
            ) from None


def _refuse_binary(file: str, data: bytes) -> None:
    if b"\0" in data:
        raise ValueError(
            f"{file} is a binary file (its byte {data.index(0)} is zero) and no UTF-8 "
            "text; take it out, or convert it with `iconv -f UTF-16 -t UTF-8`"
        )


def _not_utf8(file: str, offset: int) -> ValueError:
    return ValueError(
        f"{file} is not UTF-8: its byte {offset} is of no character; convert it, for "
        "instance with `iconv -f LATIN1 -t UTF-8`"
    )


def _first_invalid(stream: Any) -> int:
    """The offset of the first byte that is not UTF-8."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    while data := stream.read(1 << 20):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(data)
        except UnicodeDecodeError as e:
            return position - pending + e.start
        position += len(data)
    return position - len(decoder.getstate()[0])


def _opened(file: str) -> Any:
    """The bytes of a file, decompressed."""
    if file.endswith(".gz"):
        return gzip.open(file)
    if not file.endswith(".zst"):
        return open(file, "rb")
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{file} needs zstandard, which is not installed; "
            "run `pip install zstandard`, or decompress it"
        ) from None
    return io.BufferedReader(zstandard.open(file, "rb"), 1 << 20)


def _where(file: str, position: int) -> str:
    """The line that begins at a position: counted only for an error."""
    number = 1
    with _opened(file) as stream:
        while position > 0:
            data = stream.read(min(position, 1 << 20))
            number += data.count(b"\n")
            position -= len(data)
    return f"{file}, line {number}"
