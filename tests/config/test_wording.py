"""Numbers in words."""

import pytest

from llmjax.config import wording


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (wording.count(1, "file"), "1 file"),
        (wording.count(0, "file"), "0 files"),
        (wording.count(2000, "class", "classes"), "2,000 classes"),
        (wording.short(812), "812"),
        (wording.short(4_257_000), "4.26 M"),
        (wording.short(70.6e9), "70.6 B"),
        (wording.size(812), "812 bytes"),
        (wording.size(1.58 * 2**30), "1.58 GiB"),
        (wording.size(5000 * 2**40), "5e+03 TiB"),
        (wording.duration(0.84), "0.8 s"),
        (wording.duration(46.2), "46 s"),
        (wording.duration(526), "8 min 46 s"),
        (wording.duration(11_100), "3 h 5 min"),
    ],
)
def test_numbers(words, expected):
    assert words == expected


def test_a_table_has_two_columns_and_no_empty_rows():
    text = wording.table({"a": "word " * 30, "none": "", "long name": "x"})
    first, second, last = text.splitlines()
    assert first.startswith("a          word") and len(first) <= 88
    assert second.startswith("           word") and last == "long name  x"
