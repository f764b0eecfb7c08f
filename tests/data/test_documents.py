"""Every format gives the same records, whole or in parts; bad input names itself."""

import csv
import decimal
import gzip
import io
import itertools
import json
import pathlib
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from array_record.python import array_record_module

from llmjax.data.files import (
    finding,
    readers,
    reading_json,
    reading_tables,
    reading_text,
    slices,
    streams,
)

TEXTS = [
    f"Text {k}, with 'ü', \"quotes\"\nand a second line, {'long ' * k}"
    for k in range(40)
]
LABELS = [None if k % 7 == 0 else f"class {k % 3}" for k in range(40)]
ROWS = [
    {"body": text, "kind": label, "id": k}
    for k, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
]


def jsonl(path: pathlib.Path) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write_jsonl(path: pathlib.Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + jsonl(path).rstrip())


def write_gz(path: pathlib.Path) -> None:
    path.write_bytes(gzip.compress(jsonl(path)))


def zst(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def write_zst(path: pathlib.Path) -> None:
    path.write_bytes(zst(jsonl(path)))


def write_csv(path: pathlib.Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(ROWS[0])
    writer.writerows(row.values() for row in ROWS)
    data = text.getvalue().encode("utf-8-sig")
    path.write_bytes(zst(data) if path.suffix == ".zst" else data)


def write_json(path: pathlib.Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1))


def write_json_gz(path: pathlib.Path) -> None:
    path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))


def write_json_lines(path: pathlib.Path) -> None:
    path.write_text("\n".join(json.dumps(row, indent=1) for row in ROWS))


def write_parquet(path: pathlib.Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)


WRITERS: dict[str, Callable[[pathlib.Path], None]] = {
    "jsonl": write_jsonl,
    "JSONL": write_jsonl,
    "jsonl.gz": write_gz,
    "jsonl.zst": write_zst,
    "json": write_json,
    "json.GZ": write_json_gz,
    "lines.json": write_json_lines,
    "csv": write_csv,
    "csv.zst": write_csv,
    "Parquet": write_parquet,
}


def records(path: pathlib.Path, text: str = "body", label: str = "kind") -> list[Any]:
    found = finding.find(str(path), label)
    return [r for s in found.slices for r in readers.read(s, text, label)]


@pytest.mark.parametrize("part_bytes", [50, 997, 10**9])
@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_records(
    form: str, part_bytes: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", part_bytes)
    path = tmp_path / f"a.{form}"
    WRITERS[form](path)
    assert records(path) == list(zip(TEXTS, LABELS, strict=True))
    assert [label for _, label in records(path, label="")] == [None] * 40
    divided = part_bytes < 10**9 and form in ("jsonl", "JSONL", "Parquet")
    assert (len(finding.find(str(path)).slices) > 1) == divided
    assert records(tmp_path) == records(path)  # a folder
    assert records(tmp_path / "*.*") == records(path)  # a glob


def test_each_line_is_of_one_part_wherever_it_is_cut(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jsonl"
    wanted = ["", "one", "four"]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in wanted))
    size = path.stat().st_size
    for a, b in itertools.combinations(range(size + 1), 2):
        read = [
            text
            for start, stop in ((0, a), (a, b), (b, size))
            for text, _ in readers.read(
                slices.FileSlice((str(path),), "jsonl", start, stop), "text", ""
            )
        ]
        assert read == wanted


def test_text_files_are_gathered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, text in enumerate(TEXTS):
        (tmp_path / f"{k % 2}").mkdir(exist_ok=True)
        (tmp_path / f"{k % 2}" / f"{k:02d}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "notes.pdf").write_bytes(b"not read")
    monkeypatch.setattr(finding, "SLICE_BYTES", 1000)
    assert len(finding.find(str(tmp_path)).slices) > 2
    assert records(tmp_path) == [(t, None) for t in TEXTS[::2] + TEXTS[1::2]]


def write_records(path: pathlib.Path, rows: list[bytes]) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(row)
    writer.close()


def test_array_records_of_text(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.array_record"
    write_records(path, [t.encode() for t in TEXTS])
    monkeypatch.setattr(slices, "SLICE_BYTES", 500)
    assert len(finding.find(str(path)).slices) > 1
    assert records(path, label="") == [(t, None) for t in TEXTS]
    write_records(path, [b"good", "schön".encode("latin1")])
    with pytest.raises(ValueError, match=r"array_record, record 1 is not UTF-8.* 3 "):
        records(path, label="")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            records(path, label="")
        except ValueError as e:
            assert "a.array_record" in str(e) and "\n" not in str(e)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"features\.json is damaged \(JSONDecodeError"),
        ("[]", r"features\.json is damaged"),
        (
            '{"pythonClassName": "antigravity.Evil"}',
            r"names the class 'antigravity\.Evil', which is none of TFDS",
        ),
    ],
)
def test_features_of_another_form_name_the_file_and_import_nothing(
    text: str, message: str, tmp_path: pathlib.Path
) -> None:
    write_records(tmp_path / "a.array_record", [b"x"])
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        records(tmp_path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty; delete"),
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.txt", b"PK\x03\x04\x00", r"a\.txt is a binary file \(its byte 4 .*iconv"),
        ("a.jsonl", '{"body": "ü"}'.encode("utf-16"), r"a\.jsonl is a binary file"),
        ("a.csv", b"\x00\x01", r"a\.csv is a binary file"),
        ("a.txt", b"good \xfc", r"a\.txt is not UTF-8: its byte 5 .*iconv"),
        (
            "a.jsonl",
            b'{"body": "", "kind": 1}\n{"body": "\xfc"}',
            r"a\.jsonl is not UTF-8: its byte 34 ",
        ),
        ("a.csv", b"body,kind\nok,1\n\xfc,2\n", r"a\.csv is not UTF-8: its byte 15 "),
        (
            "a.jsonl",
            b'{"body": "", "kind": 1}\n{"text": "", "kind": 1}',
            r"a\.jsonl, line 2 has no field 'body'; it has 'text', 'kind': set data\."
            r"prepare\.text",
        ),
        (
            "a.jsonl",
            b'\n{"body": "", "label": 1}',
            r"line 2 has no field 'kind'; it has 'body', 'label': .*prepare\.label",
        ),
        ("a.jsonl", b'{"body": 3, "kind": 1}', r"line 1: the field 'body' is int"),
        ("a.jsonl", b'{"body": "a"', r"line 1 is not JSON .*must be an object such"),
        ("a.jsonl", b'["a"]', r"line 1 is list and no object"),
        ("a.csv", b"text,kind\n", r"a\.csv, line 1 has no field 'body'; it has 'text'"),
        ("a.csv", b"body,kind\na,b,c\n", r"line 2 has 3 fields and the header 2"),
        ("a.csv", b'body,kind\n"a,b\n', r"a\.csv, line 2 is no CSV"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet is no whole parquet file"),
        ("a.array_record", b"no record", r"a\.array_record is no whole array_record"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz is no whole gzip file"),
        ("a.jsonl.zst", b"no zstd at all", r"a\.jsonl\.zst is no whole zstandard file"),
        ("a.doc", b"some", r"no format that can be read; accepted: \.txt"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz is no whole gzip file"),
        (
            "a.txt.gz",
            gzip.compress(b"\xfc", mtime=0),
            r"a\.txt\.gz is not UTF-8: its byte 0 ",
        ),
        (
            "a.csv.gz",
            gzip.compress(b"body,kind\n\xfc,", mtime=0),
            r"gz is not UTF-8: its byte 10",
        ),
        ("a.csv", b"body,kind,body\na,b,c\n", r"a\.csv, line 1 has 2 fields 'body'"),
        (
            "a.jsonl",
            b'{"body": "", "kind": 1}\n{"body": "", "kind": ' + b"9" * 5000 + b"}",
            r"a\.jsonl, line 2 is not JSON \(Exceeds the limit",
        ),
        (
            "a.jsonl",
            b'\n{"body": "ab\\ud83d", "kind": 1}',
            r"jsonl, line 2: the field 'body' has half of a surrogate pair .*U\+FFFD",
        ),
        (
            "a.jsonl",
            b'{"body": "", "kind": 1, "x": ' + b"[" * 100_000,
            r"a\.jsonl, line 1 is not JSON \(it is nested too deep\)",
        ),
        (
            "a.json",
            b'[{"body": "", "kind": 1}, {"body": "\\udc00", "kind": 1}]',
            r"a\.json, object 2: the field 'body' has half",
        ),
        ("a.json", b"[" + b'{"x":' * 100_000, r"a\.json, object 1 .*nested too deep"),
        ("a.json", b'[{"body": ' + b"9" * 5000, r"object 1 is not JSON .*Exceeds the"),
        ("a.json", b'[{"body": "", "kind": 1}', r"object 1 .*']' is missing behind it"),
        (
            "a.json",
            b'[{"body": "", "kind": 1},',
            r"object 1 .*']' is missing behind it",
        ),
        (
            "a.json",
            b'[{"body": "", "kind": 1}] {',
            r"something follows the array's end",
        ),
        ("a.json", b'[{"body": "a", "ki', r"a\.json, object 1 is not JSON .*Untermin"),
        ("a.json", b'{"body": "a" "kind": 1}', r"object 1 .*Expecting ',' delimiter"),
        ("a.json", b"[3]", r"a\.json, object 1 .*it begins with '3'.*array of objects"),
        (
            "a.json",
            b'{"data": []}',
            r"json, object 1 has no field 'body'; it has 'data'",
        ),
        ("a.json", b'[{"body": "\xfc"}]', r"a\.json is not UTF-8: its byte 11 "),
        ("a.json", '{"body": "ü"}'.encode("utf-16"), r"a\.json is a binary file"),
        (
            "a.jsonl",
            b'{"body": "", "kind": [1]}',
            r"line 1: the field 'kind' is list an",
        ),
    ],
)
def test_bad_files_name_themselves(
    name: str, content: bytes, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        records(tmp_path / name)


@pytest.mark.parametrize("pack", [zst, gzip.compress])
def test_a_stream_that_ends_inside_a_frame_is_no_whole_file(
    pack: Callable[[bytes], bytes], tmp_path: pathlib.Path
) -> None:
    line = b'{"body": "%d", "kind": 0}\n'
    frames = [
        pack(b"".join(line % k for k in range(start, start + 9)))
        for start in (0, 9, 18)
    ]
    ends = list(itertools.accumulate(map(len, frames)))
    path = tmp_path / f"a.jsonl.{'gz' if pack is gzip.compress else 'zst'}"
    for cut in range(1, ends[-1] + 1):
        path.write_bytes(b"".join(frames)[:cut])
        if cut in ends:
            assert len(records(path)) == 9 * (ends.index(cut) + 1)
        else:
            with pytest.raises(ValueError, match=r"a\.jsonl\.\w+ is no whole \w+ file"):
                records(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst", "a.csv.gz", "a.txt.zst"])
def test_what_is_too_long_is_refused_before_it_is_all_read(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (reading_json, reading_text, streams):
        monkeypatch.setattr(module, "LINE_BYTES", 1 << 20)
    monkeypatch.setattr(reading_json, "_CHARACTERS", 1 << 16)
    long = "a" * (40 << 20)
    texts = {
        "jsonl": f'{{"body": "b", "kind": 0}}\n{{"body": "{long}", "kind": 1}}',
        "json": f'[{{"body": "b", "kind": 0}}, {{"body": "{long}", "kind": 1}}]',
        "csv": f"body,kind\n{long},0\n",
        "txt": long,
    }
    pack = zst if name.endswith("zst") else gzip.compress
    (tmp_path / name).write_bytes(pack(texts.pop(name.split(".")[1]).encode()))
    del long, texts
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.\w+\.\w+.*is longer than 1 MiB; cut it"):
        records(tmp_path / name, label="" if "txt" in name else "kind")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_truncated_archives_and_tables_name_themselves(tmp_path: pathlib.Path) -> None:
    write_gz(tmp_path / "a.jsonl.gz")
    whole = (tmp_path / "a.jsonl.gz").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is no whole gzip file"):
        records(tmp_path / "a.jsonl.gz")
    write_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has no field 'text'; .*'body'"):
        records(tmp_path / "b.parquet", "text")
    with pytest.raises(ValueError, match=r"b\.parquet, row 0: the field 'id' is int"):
        records(tmp_path / "b.parquet", "id")


def test_invalid_utf8_is_found_across_blocks() -> None:
    for good in (b"a" * (2**20 - 1), "ü".encode() * 2**19, b"x"):
        bad = io.BytesIO(good + "ü".encode() + b"\xff")
        assert streams.first_invalid(bad) == len(good) + 2
        half = io.BytesIO(good + b"\xc3")
        assert streams.first_invalid(half) == len(good)


def test_a_field_of_tfds_is_asked_for_by_name() -> None:
    assert reading_tables.class_names(pathlib.Path("/nowhere"), "label") == ()


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.array(["a", "b", "a"], pa.large_string()),
    ],
    ids=lambda values: str(values.type),
)
def test_categories_and_views_of_text_are_text(
    values: Any, tmp_path: pathlib.Path
) -> None:
    table = pa.table({"body": values, "kind": values})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert records(tmp_path) == [("a", "a"), ("b", "b"), ("a", "a")]


def test_columns_that_are_not_text_or_not_one_name_themselves(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "a.parquet"
    twice = pa.table([pa.array(["a"])] * 2, names=["body", "body"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(ValueError, match=r"a\.parquet has 2 fields 'body'; rename all"):
        records(path, label="")
    data = pa.array([b"a", b"\xff", b"c"])
    latin = pa.StringArray.from_buffers(3, *data.buffers()[1:])
    pyarrow.parquet.write_table(pa.table({"body": latin}), path)
    message = r"parquet, rows 0 to 2: the column 'body' cannot be read.*UTF8.* index 1"
    with pytest.raises(ValueError, match=message):
        records(path, label="")
    pyarrow.parquet.write_table(pa.table({"body": data}), path)
    with pytest.raises(ValueError, match=r"row 0: the field 'body' is bytes and no te"):
        records(path, label="")


def test_a_damaged_footer_is_no_whole_parquet(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"body": ["a"], "kind": [1]}), path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[-8:-4], "little")
    for place in range(len(whole) - 8 - size, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            records(path)
        except ValueError as e:
            assert "a.parquet" in str(e) and "\n" not in str(e)


def test_the_values_of_a_label_are_the_classes(tmp_path: pathlib.Path) -> None:
    values = [-1, 0, 1, None, 1.0, -1.0, float("nan"), True, "", "a", 0.5]
    path = tmp_path / "a.jsonl"
    lines = (json.dumps({"body": "", "kind": value}) for value in values)
    path.write_text("\n".join(lines))
    names = ["-1", "0", "1", None, "1", "-1", None, "True", None, "a", "0.5"]
    assert [name for _, name in records(path)] == names
    kinds = [[-1, 0, 1], [-1.0, 0.0, 1.0], [decimal.Decimal(k) for k in (-1, 0, 1)]]
    for kind in kinds:
        table = pa.table({"body": [""] * 4, "kind": [*kind, None]})
        pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
        found = [name for _, name in records(tmp_path / "b.parquet")]
        assert found == ["-1", "0", "1", None]
