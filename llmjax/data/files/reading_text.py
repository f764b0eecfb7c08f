"""Text files as rows: .txt, .jsonl (.gz, .zst), .csv."""

import codecs
import csv
import functools
import gzip
import io
import json
import pathlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from llmjax.data.files.slices import Columns, FileSlice, Row, damaged, require_columns


def text_file(file: str) -> str:
    """The text of a .txt file.

    Raises:
      ValueError: it is binary, or not UTF-8; says where.
    """
    data = pathlib.Path(file).read_bytes()
    _refuse_binary(file, data[:4096])
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise _not_utf8(file, e.start) from None


def jsonl(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """The lines that begin in a slice of a .jsonl, or all of a compressed one.

    Raises:
      ValueError: a line is no JSON object with those columns; says which.
      ModuleNotFoundError: a .zst without zstandard.
    """
    file, position = file_slice.files[0], file_slice.start
    try:
        with _opened(file) as stream:
            if position:  # the line before is another slice's
                stream.seek(position - 1)
                position += len(stream.readline()) - 1
            while position < file_slice.stop or file_slice.format != "jsonl":
                line = stream.readline()
                if not line:
                    return
                if position == 0:
                    _refuse_binary(file, line[:4096])
                if line.strip():
                    yield _row(line, file, position, columns)
                position += len(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise damaged(file, "gzip", e) from e
    except Exception as e:
        if type(e).__name__ != "ZstdError":  # its class is not here without the library
            raise
        raise damaged(file, "zstandard", e) from e


def _row(line: bytes, file: str, position: int, columns: Columns) -> Row:
    where = functools.partial(_where, file, position)
    first = next(iter(columns))
    try:
        values = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as e:
        raise _not_utf8(file, position + e.start) from None
    except json.JSONDecodeError as e:
        raise ValueError(
            f"{where()} is not JSON ({e}); each line must be an object "
            f'such as {{"{first}": "..."}}'
        ) from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{where()} is {type(values).__name__} and no object such as "
            f'{{"{first}": "..."}}'
        )
    if not columns.keys() <= values.keys():
        require_columns(where(), columns, values)
    return Row(values, where)


def rows(file: str, columns: Columns) -> Iterator[Row]:
    """The rows of a .csv whose first line names the columns.

    Raises:
      ValueError: a column is missing, a row has more or fewer; says which line.
    """
    csv.field_size_limit(sys.maxsize)
    with open(file, "rb") as stream:
        _refuse_binary(file, stream.read(4096))
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            require_columns(f"{file}, line 1", columns, header)
            places = {column: header.index(column) for column in columns}
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"{file}, line {reader.line_num} has {len(row)} fields and the "
                        f"header {len(header)}; quote fields that hold a comma or a "
                        "line break"
                    )
                if row:
                    values = {column: row[k] for column, k in places.items()}
                    line = f"{file}, line {reader.line_num}"
                    yield Row(values, functools.partial(str, line))
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
