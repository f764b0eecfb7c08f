"""Text files as rows: .txt, .csv and .tsv, also packed as .gz or .zst."""

import csv
import functools
import io
import itertools
from collections.abc import Iterator

from llmjax.data.files import streams
from llmjax.data.files.slices import Columns, Row, require_columns
from llmjax.data.files.streams import LINE_BYTES

NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
DELIMITERS = tuple(NAMES)


def text_file(file: str) -> str:
    """The text of a .txt file, without a byte order mark.

    A packed one has a bound, `streams.LINE_BYTES`: its size on disk says nothing.

    Raises:
      ValueError: it is binary, not UTF-8, damaged or packed and too long; says where.
    """
    packed = file.lower().endswith((".gz", ".zst"))
    with streams.opened(file) as stream:
        data = stream.read(LINE_BYTES + 1 if packed else -1)
    if packed and len(data) > LINE_BYTES:
        raise streams.too_long(file, "the packed text")
    streams.refuse_binary(file, data[:4096])
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        raise streams.not_utf8(file, e.start) from None


def header(file: str) -> list[str]:
    """The columns of a .csv or .tsv."""
    return next(iter(_first_rows(file, delimiter(file))), [])


def delimiter(file: str) -> str:
    """What stands between the fields of a .csv or .tsv: as its name says, or else.

    Another one is taken only where it leaves no doubt: by the name the header is a
    single field, and by the other several, as many as in the row below.
    """
    plain = file.lower().removesuffix(".gz").removesuffix(".zst")
    own = "\t" if plain.endswith(".tsv") else ","
    for other in (own, *(d for d in DELIMITERS if d != own)):
        try:
            first = _first_rows(file, other)
        except (csv.Error, UnicodeDecodeError):  # said where the rows are read
            return own
        lengths = {len(row) for row in first}
        if len(first) == 2 and len(lengths) == 1 and lengths != {1}:
            return other
        if other == own and first and len(first[0]) > 1:
            return own
    return own


def _first_rows(file: str, delimiter: str) -> list[list[str]]:
    """The header and the first row that is not empty."""
    with streams.opened(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        rows = csv.reader(_lines(text, file), delimiter=delimiter)
        return [*itertools.islice((row for row in rows if row), 2)]


def lines(file: str, column: str) -> Iterator[Row]:
    """A row for each line of a .txt, empty ones too, in the column of this name.

    Raises:
      ValueError: it is binary, not UTF-8, damaged, or a line is too long; says where.
    """
    with streams.opened(file) as stream:
        streams.refuse_binary(file, stream.read(4096))
    with streams.opened(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        try:
            for number, line in enumerate(_lines(text, file), 1):
                where = functools.partial("{}, line {}".format, file, number)
                yield Row({column: line.rstrip("\r\n")}, where)
        except UnicodeDecodeError:
            with streams.opened(file) as again:
                raise streams.not_utf8(file, streams.first_invalid(again)) from None


def rows(file: str, columns: Columns) -> Iterator[Row]:
    """The rows of a .csv or .tsv whose first line names the columns.

    Raises:
      ValueError: a column is missing or there twice, a row has more or fewer, a line
        or a field is too long; says which line.
    """
    csv.field_size_limit(LINE_BYTES)
    with streams.opened(file) as stream:
        streams.refuse_binary(file, stream.read(4096))
    mark = delimiter(file)
    with streams.opened(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        reader = csv.reader(_lines(text, file), delimiter=mark, strict=True)
        try:
            header = next(reader, [])
            _require_columns(file, columns, header)
            places = {column: header.index(column) for column in columns}
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"{file}, line {reader.line_num} has {len(row)} fields and the "
                        f"header {len(header)}; quote fields that hold {NAMES[mark]} "
                        "or a line break"
                    )
                if row:
                    values = {column: row[k] for column, k in places.items()}
                    line = f"{file}, line {reader.line_num}"
                    yield Row(values, functools.partial(str, line))
        except UnicodeDecodeError:
            with streams.opened(file) as again:
                raise streams.not_utf8(file, streams.first_invalid(again)) from None
        except csv.Error as e:
            raise ValueError(
                f"{file}, line {reader.line_num} is no CSV ({e}); mend it, or write it "
                "as .jsonl"
            ) from None


def _require_columns(file: str, columns: Columns, header: list[str]) -> None:
    """Checks a header's columns, with a hint where its fields are divided otherwise."""
    try:
        require_columns(f"{file}, line 1", columns, header)
    except ValueError as e:
        other = next((d for d in DELIMITERS if any(d in name for name in header)), "")
        if not other:
            raise
        raise ValueError(
            f"{e}. If {NAMES[other]} divides its fields, give the first row as many as "
            "the header, or write the file with commas"
        ) from None


def _lines(text: io.TextIOWrapper, file: str) -> Iterator[str]:
    number = 1
    while line := text.readline(LINE_BYTES + 1):
        if len(line) > LINE_BYTES:
            raise streams.too_long(f"{file}, line {number}", "the line")
        yield line
        number += 1
