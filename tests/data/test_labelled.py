"""Labelled files are taken as they are, and the splits that files have are kept."""

import csv
import json

import numpy as np
import pytest

from llmjax.config import (
    Bytes,
    DataConfig,
    Label,
    PrepareConfig,
    RecordField,
    Text,
)
from llmjax.data.prepare import labelled, prepare, selecting


def write(path, rows, columns=("text", "label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def rows(n, start=0):
    """Short texts of two classes; each third is like the one before it."""
    return [
        (f"good no {start + i - (i % 3 == 2)}", ("good", "bad")[i % 2])
        for i in range(n)
    ]


@pytest.fixture
def corpus(tmp_path):
    """(source, rules) -> the corpus prepared, and all its texts by split."""

    def make(source, **rules):
        data = DataConfig(
            source=str(source),
            directory=str(tmp_path / "cache"),
            tokenizer=Bytes(),
            prepare=PrepareConfig(workers=1, **rules),
        )
        corpus = prepare.prepare(data)
        splits = corpus.manifest["dataset"]["documents"]
        texts = {split: list(corpus.texts(split)) for split in splits}
        return corpus, texts

    return make


def test_labelled_texts_are_all_kept(corpus, tmp_path, capsys):
    mangled = "sch\u00c3\u00b6n"  # as what predicts them reads them, here or elsewhere
    own = [*rows(60), ("", "good"), (mangled, "")]
    source = write(tmp_path / "a.csv", own)
    made, texts = corpus(source, label="label", validation=0.2, test=0.2)
    kept = sorted(text for split in texts.values() for text in split)
    assert kept == sorted([*(text for text, _ in rows(60)), mangled])
    held_out = {*texts["validation"], *texts["test"]}
    assert not held_out & {*texts["train"]}  # copies stay together
    counts = made.manifest["dataset"]["cleaning"]
    assert selecting.dropped(counts) == {"empty": 1} and counts["unlabelled"] == 1
    said = capsys.readouterr().err
    assert "61 of 62 documents are kept; dropped: 1 empty" in said
    assert "1 document without a label" in said


def test_one_class_is_not_several_by_the_way_it_is_written(corpus, tmp_path):
    """As pandas writes numbers beside a gap, and people write names."""
    labels = ["1", "1.0", "0.0", "0", "", " ", "2.5", "caf\u00e9", " cafe\u0301 "]
    own = [(f"text {i}", label) for i, label in enumerate(labels * 3)]
    for_held_out = {"validation": 0.0, "test": 0.0}
    source = write(tmp_path / "a.csv", own)
    made, _ = corpus(source, label="label", **for_held_out)
    assert made.class_names == ("0", "1", "2.5", "caf\u00e9")
    assert made.manifest["dataset"]["cleaning"]["unlabelled"] == 6
    assert np.bincount(made.source("train", "text").labels + 1).tolist() == [
        *(6, 6, 6, 3, 6)
    ]


def test_of_a_few_texts_each_split_has_one(corpus, tmp_path):
    source = write(tmp_path / "a.csv", [(f"{i}", "ab"[i % 2]) for i in range(12)])
    _, texts = corpus(source, label="label", validation=0.01, test=0.01)
    assert {split: len(own) for split, own in texts.items()} == {
        "train": 10,
        "validation": 1,
        "test": 1,
    }


def test_what_is_asked_to_be_dropped_is_said(corpus, tmp_path, capsys):
    source = write(tmp_path / "a.csv", rows(60))
    asked = {"exact_duplicates": True, "min_characters": 10}
    made, _ = corpus(source, label="label", validation=0.2, test=0.0, **asked)
    assert made.manifest["dataset"]["cleaning"]["kept"] == 33
    said = capsys.readouterr().err
    assert "10 shorter than 10 characters (data.prepare.min_characters)" in said
    assert "17 copies of others (data.prepare.exact_duplicates)" in said


def test_texts_without_labels_are_cleaned_as_the_web_is(corpus, tmp_path, capsys):
    long = [(f"{' '.join(str(i * k) for k in range(40))}", "") for i in range(1, 61)]
    source = write(tmp_path / "a.csv", [*long, long[0], ("short", "")])
    corpus(source, validation=0.2, test=0.0)
    said = capsys.readouterr().err
    assert "1 shorter than 80 characters" in said and "1 copies of others" in said
    assert PrepareConfig().resolved().near_duplicates
    assert PrepareConfig().resolved().cleaning == ("mojibake",)
    assert not PrepareConfig(label="y").resolved().near_duplicates


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"},
        {
            "train": "data/train-00000-of-00001.csv",
            "validation": "data/dev-0.csv",
            "test": "data/test.csv",
        },
        {
            "train": "train/a.csv",
            "validation": "validation/a.csv",
            "test": "test/a.csv",
        },
    ],
    ids=["files", "shards", "folders"],
)
def test_files_named_after_splits_are_those(names, corpus, tmp_path):
    own = {"train": rows(9), "validation": rows(4, 50), "test": rows(5, 90)}
    for split, name in names.items():
        write(tmp_path / "source" / name, own[split])
    _, texts = corpus(tmp_path / "source", label="label")
    assert texts == {split: [text for text, _ in own[split]] for split in own}


def test_a_split_that_is_missing_is_held_out_of_training(corpus, tmp_path, capsys):
    write(tmp_path / "source/train.csv", rows(60))
    write(tmp_path / "source/test.csv", rows(5, 90))
    made, texts = corpus(tmp_path / "source", label="label", validation=0.2)
    assert texts["test"] == [text for text, _ in rows(5, 90)]
    together = sorted(texts["train"] + texts["validation"])
    assert together == sorted(text for text, _ in rows(60)) and texts["validation"]
    assert made.manifest["dataset"]["held_out"] == ["validation"]
    count = len(texts["validation"])
    assert f"no split 'validation': {count} documents of 'train'" in (
        capsys.readouterr().err
    )


def test_a_file_beside_splits_that_is_of_none_is_named(corpus, tmp_path):
    for name in ("train.csv", "test.csv", "more.csv"):
        write(tmp_path / "source" / name, rows(9))
    with pytest.raises(ValueError, match=r"more\.csv, whose name says none of train"):
        corpus(tmp_path / "source", label="label")


def test_a_column_of_splits(corpus, tmp_path):
    names = ("train", "dev", "test")
    written = [(*row, names[i % 3]) for i, row in enumerate(rows(12))]
    source = write(tmp_path / "a.csv", written, ("text", "label", "split"))
    _, texts = corpus(source, label="label")
    assert texts["validation"] == [text for text, _, s in written if s == "dev"]
    assert sum(map(len, texts.values())) == 12
    _, texts = corpus(source, label="label", split="", validation=0.5, test=0.0)
    assert set(texts) == {"train", "validation"}
    source = write(tmp_path / "b.csv", [("a", "b", "c")], ("text", "label", "split"))
    with pytest.raises(ValueError, match="'split' is 'c' and no split; accepted: tr"):
        corpus(source, label="label")


def test_records_keep_their_splits(tmp_path):
    for split, own in (("train", rows(60)), ("validation", rows(4, 99))):
        write(tmp_path / "source" / f"{split}.csv", own)
    fields = RecordField("text", type=Text()), RecordField("label", type=Label())
    data = DataConfig(
        source=str(tmp_path / "source"),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=PrepareConfig(fields=fields, test=0.2),
    )
    documents = prepare.prepare(data).manifest["dataset"]["documents"]
    assert documents["validation"] == 4 and documents["test"] > 0
    assert documents["train"] + documents["test"] == 60


# --- one large text ------------------------------------------------------------------


def test_a_single_text_is_cut_and_its_tail_held_out(corpus, tmp_path, capsys):
    paragraphs = [f"Paragraph {i} has {i * i} words. " * 9 for i in range(200)]
    source = tmp_path / "book.txt"
    source.write_text("\n\n".join(paragraphs))
    _, texts = corpus(source, near_duplicates=False, validation=0.1, test=0.1)
    flat = [text for split in ("train", "validation", "test") for text in texts[split]]
    assert "\n\n".join(flat) == "\n\n".join(paragraphs).strip("\r\n")
    assert len(flat) > 50 and all(text.startswith("Paragraph") for text in flat)
    size = sum(map(len, flat))
    for split in ("validation", "test"):
        assert 0.05 < sum(map(len, texts[split])) / size < 0.15
    assert "cut into passages, its end held out" in capsys.readouterr().err


def test_a_large_text_is_cut_alike_in_any_slices(corpus, tmp_path, monkeypatch):
    from llmjax.data.files import finding, readers, slices

    source = tmp_path / "book.txt"
    source.write_text("\n\n".join(f"Nr {i} ä €. " * 60 for i in range(90)))
    monkeypatch.setattr(slices, "SLICE_BYTES", 9000)
    listing = finding.find(str(source), cut=True)
    assert len(listing.slices) > 3
    texts = [t for s in listing.slices for t, _ in readers.read(s, "text", "")]
    assert "\n\n".join(texts) == source.read_text().strip("\n")


def test_a_text_of_a_few_lines_has_all_splits(corpus, tmp_path):
    source = tmp_path / "note.txt"
    source.write_text(
        "\n".join(f"Line {i} of a note, of {i * 7} words." for i in range(99))
    )
    _, texts = corpus(source)
    assert all(texts[split] for split in ("train", "validation", "test"))


# --- columns -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        (("text", "label"), "text", "label"),
        (("id", "Sentence", "Class"), "Sentence", "Class"),
        (("label", "wording"), "wording", "label"),
        (("review", "comment_id", "labels"), "review", "labels"),
    ],
)
def test_columns_are_chosen_and_said(columns, text, label, tmp_path, capsys):
    source = write(tmp_path / "a.csv", [("x",) * len(columns)], columns)
    chosen = labelled.with_columns(DataConfig(source=str(source)))
    assert (chosen.prepare.text, chosen.prepare.label) == (text, label)
    assert f"texts are in the column {text!r}" in capsys.readouterr().err
    assert labelled.with_columns(chosen) == chosen


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (("text", "y"), r"the columns 'text', 'y'; name that of the classes"),
        (("text", "label", "class"), r"several of them could be it: 'label', 'class'"),
        (("a", "b", "label"), r"name that of the texts in data.prepare.text"),
    ],
)
def test_columns_that_are_not_plain_are_listed(columns, says, tmp_path):
    source = write(tmp_path / "a.csv", [("x",) * len(columns)], columns)
    with pytest.raises(ValueError, match=says):
        labelled.with_columns(DataConfig(source=str(source)))


def test_columns_of_other_formats(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    row = {"sentence": "x", "label": 1}
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(row) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([row]))
    pa.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for form in ("jsonl", "json", "parquet"):
        data = DataConfig(source=str(tmp_path / f"a.{form}"))
        chosen = labelled.with_columns(data, said=False)
        assert (chosen.prepare.text, chosen.prepare.label) == ("sentence", "label")
