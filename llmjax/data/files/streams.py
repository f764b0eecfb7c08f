"""Bytes of text files, decompressed and bounded, and errors that name their place."""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

from llmjax.data.files.slices import damaged, unreadable

LINE_BYTES = 64 << 20  # the longest line, object or field that is read


@contextlib.contextmanager
def opened(file: str) -> Iterator[Any]:
    """The bytes of a file, of a .gz or .zst what is packed in it.

    Raises:
      ValueError: the file cannot be read, or what is packed is damaged or cut short;
        names it.
    """
    packed = file.lower().rpartition(".")[2]
    form = {"gz": "gzip", "zst": "zstandard"}.get(packed, "text")
    try:
        with _stream(file, packed) as stream:
            yield stream
    except (EOFError, zlib.error) as e:
        raise damaged(file, form, e) from e
    except OSError as e:
        if e.errno is not None:
            raise unreadable(file, e) from e
        raise damaged(file, form, e) from e


def _stream(file: str, packed: str) -> Any:
    if packed == "gz":
        return gzip.open(file)
    if packed != "zst":
        return open(file, "rb")
    import pyarrow as pa

    # Unlike the library zstandard's, this reader tells a cut frame from a whole one.
    frames = pa.CompressedInputStream(pa.OSFile(file), "zstd")
    return io.BufferedReader(frames, 1 << 20)


def line_number(file: str, position: int) -> int:
    """The number of the line that begins at a position: counted only for an error."""
    number = 1
    with opened(file) as stream:
        while position > 0:
            data = stream.read(min(position, 1 << 20))
            number += data.count(b"\n")
            position -= len(data)
    return number


def too_long(where: str, what: str) -> ValueError:
    """The error for a line, an object or a file that is not read for its size."""
    return ValueError(
        f"{where}: {what} is longer than {LINE_BYTES >> 20} MiB; cut it into several "
        "documents"
    )


def refuse_binary(file: str, data: bytes) -> None:
    """Raises ValueError for the beginning of a file that is no UTF-8 text."""
    if b"\0" in data:
        raise ValueError(
            f"{file} is a binary file (its byte {data.index(0)} is zero) and no UTF-8 "
            "text; take it out, or convert it with `iconv -f UTF-16 -t UTF-8`"
        )


def not_utf8(file: str, offset: int) -> ValueError:
    """The error for a byte that is of no character."""
    return ValueError(
        f"{file} is not UTF-8: its byte {offset} is of no character; convert it, for "
        "instance with `iconv -f LATIN1 -t UTF-8`"
    )


def first_invalid(stream: Any) -> int:
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
