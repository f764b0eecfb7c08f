"""The names of the columns that files have, read off the first row."""

import csv
from collections.abc import Iterable

from llmjax.data.files import reading_conll, reading_json, reading_tables, reading_text
from llmjax.data.files.finding import Listing
from llmjax.data.files.slices import FileSlice

_WITHOUT = ("txt", "passages")


def names(listing: Listing) -> tuple[str, ...]:
    """The columns of the first file that has rows; () where none has.

    Of a file that is not what its name says: (). Who reads its rows says where.
    """
    for file_slice in listing.slices:
        if file_slice.format not in _WITHOUT:
            try:
                return tuple(map(str, _of(file_slice)))
            except (ValueError, RecursionError, OSError, csv.Error):
                return ()
    return ()


def _of(file_slice: FileSlice) -> Iterable[str]:
    file = file_slice.files[0]
    if file_slice.format in ("csv", "tsv"):
        return reading_text.header(file)
    if file_slice.format == "conll":
        return reading_conll.names(file)
    if file_slice.format in ("jsonl", "json"):
        return reading_json.first_keys(file, file_slice.format)
    return reading_tables.columns(file_slice)
