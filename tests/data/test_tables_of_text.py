"""Tables that are text: the lines of a .txt, and .tsv."""

import gzip

import pytest

from llmjax.data.files import columns, finding, readers, reading_text


def test_each_line_is_a_row(tmp_path):
    file = tmp_path / "texts.txt.gz"
    text = "\ufeffone, two\r\n\n  three \u2028 four\nlast"
    file.write_bytes(gzip.compress(text.encode()))
    rows = [*reading_text.lines(str(file), "review")]
    texts = [row.values["review"] for row in rows]
    assert texts == ["one, two", "", "  three \u2028 four", "last"]
    assert rows[2].where() == f"{file}, line 3"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"good\nb\xffd\n", "is not UTF-8: its byte 6 is of no character"),
        (b"good\0", "is a binary file"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(data, message, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        [*reading_text.lines(str(file), "text")]


def test_a_tsv_is_a_table_whose_commas_are_text(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tone, two\n2\t"a ""b"""\n')
    listing = finding.find(str(tmp_path))
    assert columns.names(listing) == ("id", "text")
    (file_slice,) = listing.slices
    rows = [*readers.rows(file_slice, {"text": "data.prepare.text"})]
    assert [row.values["text"] for row in rows] == ["one, two", 'a "b"']
    (tmp_path / "a.tsv").write_text("text\tlabel\nonly one\n")
    with pytest.raises(ValueError, match=r"a\.tsv, line 2 has 1 fields and the head"):
        [*readers.rows(file_slice, {"text": "data.prepare.text"})]
