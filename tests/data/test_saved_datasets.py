"""A Hugging Face dataset saved to disk: its splits, its classes, its shapes."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pytest

from llmjax.data.files import finding, readers, slices

TEXTS = [f"Text {k}, with 'ü' and {'long ' * k}" for k in range(40)]


def records(folder: pathlib.Path, label: str = "") -> list[Any]:
    listing = finding.find(str(folder), label)
    return [r for s in listing.slices for r in readers.read(s, "body", label)]


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
    found = finding.find(str(tmp_path / "d"), "kind")
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
    alone = finding.find(str(tmp_path / "d" / "test"), "body")
    assert {part.split for part in alone.slices} == {""}  # to be divided
    assert alone.class_names == ()


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> pathlib.Path:
    save_to_disk(tmp_path / "d", [{"body": t, "kind": 0} for t in TEXTS], 1)
    return tmp_path / "d"


def test_a_cut_file_is_no_whole_one(dataset: pathlib.Path) -> None:
    (arrow,) = dataset.glob("*.arrow")
    whole = arrow.read_bytes()
    assert records(dataset) == [(text, None) for text in TEXTS]
    for end in range(len(whole) - 2048, len(whole), 8):  # some between batches
        arrow.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"arrow is no whole arrow file"):
            records(dataset)


def test_categories_and_views_of_text_are_text(dataset: pathlib.Path) -> None:
    (arrow,) = dataset.glob("*.arrow")
    for values in (
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.string_view()),
    ):
        table = pa.table({"body": values})
        with pa.ipc.new_stream(str(arrow), table.schema) as writer:
            writer.write(table)
        assert records(dataset) == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    "name", ["../secret.arrow", "/etc/secret.arrow", "a/../../secret.arrow"]
)
def test_no_file_outside_the_folder_is_read(name: str, dataset: pathlib.Path) -> None:
    (arrow,) = dataset.glob("*.arrow")
    arrow.rename(dataset.parent / "secret.arrow")
    (dataset / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name}]})
    )
    with pytest.raises(ValueError, match=r"state\.json .*secret\.arrow', which is not"):
        records(dataset)


@pytest.mark.parametrize("split", ["../d", "a/b", "", "..", "a b", 3])
def test_no_split_is_a_path(split: Any, dataset: pathlib.Path) -> None:
    (dataset.parent / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    with pytest.raises(ValueError, match=r"dataset_dict\.json is not as `datasets`"):
        records(dataset.parent)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "[]",
        "{}",
        "[" * 100_000,
        '{"_data_files": {}}',
        '{"_data_files": ["a"]}',
        '{"_data_files": [{"filename": 3}]}',
        '{"_data_files": [{"filename": ""}]}',
        '{"features": 3}',
        '{"features": [1]}',
        '{"features": {"kind": {"names": 3}}}',
        '{"features": {"kind": {"names": [3]}}}',
        '{"features": {"kind": {"feature": {"names": {}}}}}',
    ],
)
def test_other_shapes_name_the_file(text: str, dataset: pathlib.Path) -> None:
    file = "dataset_info.json" if "features" in text else "state.json"
    (dataset / file).write_text(text)
    with pytest.raises(ValueError, match=rf"{file} is not as `datasets` writes it"):
        records(dataset, "kind")
    (dataset / file).unlink()
    (dataset / file).mkdir()
    with pytest.raises(ValueError, match=rf"{file} cannot be read \(Is a directory"):
        records(dataset, "kind")


def test_what_is_not_there_or_lists_its_rows_apart_is_named(
    dataset: pathlib.Path,
) -> None:
    (arrow,) = dataset.glob("*.arrow")
    arrow.rename(dataset / "other")
    with pytest.raises(ValueError, match=r"00001\.arrow cannot be read \(No such file"):
        records(dataset)
    arrow.mkdir()
    with pytest.raises(ValueError, match=r"00001\.arrow .*(?i:is a directory)"):
        records(dataset)
    state = {"_data_files": [{"filename": "other"}], "_indices_data_files": [{}]}
    (dataset / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"state\.json .*flatten_indices\(\)"):
        records(dataset)
