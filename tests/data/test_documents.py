"""Every format gives the same records, whole or in parts; bad input names itself."""

import gzip
import io
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from array_record.python import array_record_module

from llmjax.data.files import readers, reading_tables, reading_text, slices

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


def write_zst(path: pathlib.Path) -> None:
    path.write_bytes(pytest.importorskip("zstandard").compress(jsonl(path)))


def write_csv(path: pathlib.Path) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8-sig") as f:
        writer = csv.writer(f)
        writer.writerow(ROWS[0])
        writer.writerows(row.values() for row in ROWS)


def write_parquet(path: pathlib.Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)


WRITERS: dict[str, Callable[[pathlib.Path], None]] = {
    "jsonl": write_jsonl,
    "jsonl.gz": write_gz,
    "jsonl.zst": write_zst,
    "csv": write_csv,
    "parquet": write_parquet,
}


def records(path: pathlib.Path, text: str = "body", label: str = "kind") -> list[Any]:
    found = readers.find(str(path), label)
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
    divided = part_bytes < 10**9 and form in ("jsonl", "parquet")
    assert (len(readers.find(str(path)).slices) > 1) == divided
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
    monkeypatch.setattr(readers, "SLICE_BYTES", 1000)
    assert len(readers.find(str(tmp_path)).slices) > 2
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
    assert len(readers.find(str(path)).slices) > 1
    assert records(path, label="") == [(t, None) for t in TEXTS]
    write_records(path, [b"good", "schön".encode("latin1")])
    with pytest.raises(ValueError, match=r"array_record, record 1 is not UTF-8.* 3 "):
        records(path, label="")


def save_to_disk(folder: pathlib.Path, rows: list[dict[str, Any]], files: int) -> None:
    """As Hugging Face's `datasets` lays it out (compared with its version 5.2)."""
    folder.mkdir(parents=True)
    names = [f"data-{k:05d}-of-{files:05d}.arrow" for k in range(files)]
    for k, name in enumerate(names):
        table = pa.Table.from_pylist(rows[k::files])
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            for batch in table.to_batches(5):
                writer.write(batch)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    features = {
        "body": {"dtype": "string", "_type": "Value"},
        "kind": {"names": ["dog", "cat"], "_type": "ClassLabel"},
    }
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_a_dataset_saved_to_disk_keeps_its_splits(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"body": t, "kind": k % 2} for k, t in enumerate(TEXTS)]
    save_to_disk(tmp_path / "d" / "train", rows[:30], 2)
    save_to_disk(tmp_path / "d" / "test", rows[30:], 1)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    monkeypatch.setattr(slices, "SLICE_BYTES", 1000)
    found = readers.find(str(tmp_path / "d"), "kind")
    assert found.class_names == ("dog", "cat")
    assert len(found.slices) > 3
    for split, wanted in (
        ("train", rows[:30:2] + rows[1:30:2]),
        ("test", rows[30:]),
    ):
        read = [
            r
            for part in found.slices
            if part.split == split
            for r in readers.read(part, "body", "kind")
        ]
        assert read == [(row["body"], str(row["kind"])) for row in wanted]
    alone = readers.find(str(tmp_path / "d" / "test"), "body")
    assert {part.split for part in alone.slices} == {""}  # to be divided
    assert alone.class_names == ()


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
    ],
)
def test_bad_files_name_themselves(
    name: str, content: bytes, message: str, tmp_path: pathlib.Path
) -> None:
    if name.endswith("zst"):
        pytest.importorskip("zstandard")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        records(tmp_path / name)


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
    save_to_disk(tmp_path / "d", [{"body": t} for t in TEXTS], 1)
    (arrow,) = (tmp_path / "d").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"arrow is no whole arrow file"):
        records(tmp_path / "d", label="")


def test_invalid_utf8_is_found_across_blocks() -> None:
    for good in (b"a" * (2**20 - 1), "ü".encode() * 2**19, b"x"):
        bad = io.BytesIO(good + "ü".encode() + b"\xff")
        assert reading_text._first_invalid(bad) == len(good) + 2
        half = io.BytesIO(good + b"\xc3")
        assert reading_text._first_invalid(half) == len(good)


def test_a_field_of_tfds_is_asked_for_by_name() -> None:
    assert reading_tables.class_names(pathlib.Path("/nowhere"), "label") == ()
