"""CoNLL's column files as rows: a word in each line, a blank line between sentences.

Columns are divided by tabs where the file has any, else by white space. The first is
the word ("words", "tokens"), the last its tag ("tags", "ner_tags", "labels"); "1", "2"…
name any. Lines of -DOCSTART-, which divide documents, are left out.
"""

import functools
import io
from collections.abc import Iterator

from llmjax.data.files import streams
from llmjax.data.files.slices import Columns, Row, require_columns
from llmjax.data.files.streams import LINE_BYTES

WORDS, TAGS = "words", "tags"
_FIRST, _LAST = (WORDS, "tokens"), (TAGS, "ner_tags", "labels")
_DIVIDER = "-DOCSTART-"


def names(file: str) -> tuple[str, ...]:
    """The columns of a file, by their names; () where it has none."""
    for _, cells in _lines(file):
        if cells:
            return (WORDS, TAGS) if len(cells) > 1 else ()
    return ()


def rows(file: str, columns: Columns) -> Iterator[Row]:
    """The sentences of a file: lists of cells by column.

    Raises:
      ValueError: a line has more or fewer columns than the first, or a single one; the
        file is binary or not UTF-8, or lacks a column; says which line.
    """
    sentence: list[list[str]] = []
    begun, width = 0, 0
    for number, cells in _lines(file):
        if cells:
            if not width:
                width = len(cells)
                _require(file, number, width, columns)
            if len(cells) != width:
                raise ValueError(
                    f"{file}, line {number} has {len(cells)} columns and the first "
                    f"line {width}; a word and its tag need a line with as many as all"
                )
            begun = begun or number
            sentence.append(cells)
        elif sentence:
            yield _row(sentence, columns, file, begun)
            sentence, begun = [], 0
    if sentence:
        yield _row(sentence, columns, file, begun)


def _require(file: str, number: int, width: int, columns: Columns) -> None:
    if width < 2:
        raise ValueError(
            f"{file}, line {number} has one column; accepted: CoNLL's, a word and its "
            "tag in each line with a tab or a space between, and a blank line between "
            "sentences"
        )
    there = (*_FIRST, *_LAST, *(str(k + 1) for k in range(width)))
    require_columns(f"{file}, line {number}", columns, there)


def _row(sentence: list[list[str]], columns: Columns, file: str, line: int) -> Row:
    cells = [*zip(*sentence, strict=True)]
    places = {**dict.fromkeys(_FIRST, 0), **dict.fromkeys(_LAST, -1)}
    values = {
        name: list(cells[places[name] if name in places else int(name) - 1])
        for name in columns
    }
    return Row(values, functools.partial("{}, line {}".format, file, line))


def _lines(file: str) -> Iterator[tuple[int, list[str]]]:
    """The number of each line and its cells; none of a blank one."""
    with streams.opened(file) as stream:
        head = stream.read(1 << 16)
    streams.refuse_binary(file, head[:4096])
    mark = "\t" if b"\t" in head else None
    with streams.opened(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig")
        try:
            number = 1
            while line := text.readline(LINE_BYTES + 1):
                if len(line) > LINE_BYTES:
                    raise streams.too_long(f"{file}, line {number}", "the line")
                cells = [c.strip() for c in line.strip("\r\n").split(mark)]
                blank = not line.strip() or cells[0] == _DIVIDER
                yield number, [] if blank else cells
                number += 1
        except UnicodeDecodeError:
            with streams.opened(file) as again:
                raise streams.not_utf8(file, streams.first_invalid(again)) from None
