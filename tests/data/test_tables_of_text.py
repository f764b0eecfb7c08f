"""Tables that are text: the lines of a .txt, and .tsv."""

import csv
import gzip
import io

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


TEXT = {"text": "data.prepare.text"}


def read(file, data):
    """The columns of a file, and the texts in it."""
    file.write_text(data)
    (file_slice,) = finding.find(str(file)).slices
    rows = [*readers.rows(file_slice, TEXT)]
    names = columns.names(finding.find(str(file)))
    return names, [row.values["text"] for row in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_header_and_the_first_row_say_what_divides_fields(mark, name, tmp_path):
    """Spreadsheets of many countries write semicolons; texts have all three."""
    texts = ["one, two; three\tfour", "plain", 'with "quotes"', "of two\nlines"]
    table = io.StringIO()
    writer = csv.writer(table, delimiter=mark)
    writer.writerows([["id", "text"], *enumerate(texts)])
    assert read(tmp_path / name, table.getvalue()) == (("id", "text"), texts)
    if mark != {"a.csv": ",", "a.tsv": "\t"}[name]:
        return
    one = [f'"{text}"' for text in ("a; b", "c\td", "e, f")]
    data = "\n".join(["text", *one])  # a single column stays one
    assert read(tmp_path / name, data) == (("text",), [t[1:-1] for t in one])


def test_a_header_alone_decides_nothing(tmp_path):
    header = "what do you think; why"
    key = {header: "data.prepare.text"}
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\nall is well\n")
    (row,) = reading_text.rows(str(file), key)
    assert row.values == {header: "all is well"}
    with pytest.raises(ValueError, match="no field 'text'.*If a semicolon divides"):
        [*reading_text.rows(str(file), TEXT)]
    file.write_text("id;text\n1;a\n2;b;c\n")
    with pytest.raises(ValueError, match="line 3 has 3 .* that hold a semicolon or a"):
        [*reading_text.rows(str(file), TEXT)]


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
