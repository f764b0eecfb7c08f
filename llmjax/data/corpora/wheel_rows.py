"""The rows of the corpora that lie in wheels of PyPI: one reader per form of file."""

import bz2
import csv
import dataclasses
import io
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BIBLES = {  # those in the public domain: language, title
    "k": ("en", "King James Version"),
    "3": ("en", "Bible in Basic English"),
    "4": ("en", "World English Bible"),
    "l": ("fr", "Louis Segond"),
    "s": ("de", "Schlachter"),
    "e": ("de", "Elberfelder"),
    "d": ("it", "Diodati"),
    "v": ("es", "Reina Valera"),
    "r": ("ru", "Synodal"),
}
SENTIMENT_FILES = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
_LOCALES = {"en": "en-us", "fr": "fr-fr", "es": "es-es"}


@dataclasses.dataclass(frozen=True)
class WheelRow:
    """One example as its publisher has it.

    Attributes:
      name: unique within the corpus.
      texts: field -> text.
      label: the name of its class; "" for none.
      split: "" where the publisher gives none.
      more: other features.
    """

    name: str
    texts: Mapping[str, str]
    label: str = ""
    split: str = ""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def wiki_leads(folder: Path, language: str) -> Iterator[WheelRow]:
    """Beginnings of Wikipedia articles, each with its description and its topic."""
    file = folder / f"summaries_{_LOCALES[language]}.json"
    for key, entry in json.loads(file.read_text("utf-8")).items():
        texts = {"text": entry["extract"], "title": entry["title"]}
        texts["description"] = entry["description"]
        topic = entry["topic"]
        yield WheelRow(key, texts, "" if topic == "Uncategorized" else topic)


def chitchat(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Chats; each line is one turn of a speaker."""
    chats = json.loads((folder / "dataset.json").read_text("utf-8"))
    for key, chat in chats.items():
        turns = [" ".join(m["text"] for m in turn) for turn in chat["messages"]]
        yield WheelRow(key, {"text": "\n".join(turns)})


def trec(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Questions by what answers them; "fine": 50 classes of the 6."""
    lines = (folder / "question_labels.txt").read_text("utf-8").splitlines()
    for i, line in enumerate(lines):
        label, _, question = line.partition(" ")
        if variant != "fine":
            label = label.partition(":")[0]
        yield WheelRow(f"{i:05d}", {"text": question}, label)


def sms_spam(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Short messages, "ham" or "spam"."""
    for row in _csv((folder / "sms-spam.csv").read_text("utf-8")):
        label = "spam" if row["spam"] == "1" else "ham"
        yield WheelRow(row[""], {"text": row["text"]}, label)


def movie_dialogs(folder: Path, variant: str) -> Iterator[WheelRow]:
    """A line of a film and the answer to it."""
    for row in _csv((folder / "moviedialog.csv").read_text("utf-8")):
        texts = {"source": row["statement"], "target": row["reply"]}
        yield WheelRow(row[""], texts)


def sentiment(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Texts rated by 20 people from -4 to 4; a mean of 0 has no class."""
    file = folder / "hutto_ICWSM_2014" / SENTIMENT_FILES[variant]
    for line in file.read_text("latin-1").splitlines()[1:]:
        key, rating, text = line.split("\t", 2)
        score = float(rating)
        label = "positive" if score > 0 else "negative" if score < 0 else ""
        yield WheelRow(key, {"text": text}, label, more={"score": score})


def clothing_reviews(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Reviews of clothes and whether the customer recommends them."""
    import pyarrow.parquet

    file = folder / "WomensClothingE-CommerceReviews.parquet.brotli"
    table = pyarrow.parquet.read_table(file)
    for i, row in enumerate(table.to_pylist()):
        texts = {"text": row["Review Text"] or "", "title": row["Title"] or ""}
        label = "recommended" if row["Recommended IND"] else "not recommended"
        yield WheelRow(f"{i:05d}", texts, label, more={"rating": row["Rating"]})


def film_reviews(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Reviews of films, each with the critic's verdict; the plots have no class."""
    packed = (folder / "rotten_tomatoes_corpus_full.csv.bz2").read_bytes()
    for i, row in enumerate(_csv(bz2.decompress(packed).decode("utf-8"))):
        verdict = row["category"] if row["category"] in ("fresh", "rotten") else ""
        texts = {"text": row["text"], "title": row["movie_name"]}
        yield WheelRow(f"{i:05d}", texts, verdict)


def conll2003(folder: Path, variant: str) -> Iterator[WheelRow]:
    """Sentences whose words are tagged as names (BIO), in the splits of the task."""
    for split, file in (("train", "train"), ("validation", "valid"), ("test", "test")):
        blocks = (folder / f"{file}.txt").read_text("utf-8").split("\n\n")
        for i, block in enumerate(blocks):
            lines = [line.split() for line in block.splitlines() if line.strip()]
            if not lines or lines[0][0] == "-DOCSTART-":
                continue
            tokens, tags = [t[0] for t in lines], [t[-1] for t in lines]
            more = {"tokens": tokens, "tags": tags}
            yield WheelRow(
                f"{split}-{i:05d}", {"text": " ".join(tokens)}, "", split, more
            )


def bible(folder: Path, variant: str) -> Iterator[WheelRow]:
    """The chapters of one version ("k"), or the verses of two side by side ("k-l")."""
    versions = variant.split("-")
    place = f"file:{folder / 'bible.db'}?mode=ro&immutable=1"
    query = "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ?"
    connection = sqlite3.connect(place, uri=True)
    try:
        verses = [
            {tuple(v[:3]): v[3] for v in connection.execute(query, (version,))}
            for version in versions
        ]
    finally:
        connection.close()
    if len(versions) == 2:
        for at in sorted(verses[0].keys() & verses[1].keys()):
            texts = {"source": verses[0][at], "target": verses[1][at]}
            yield WheelRow("{}:{}:{}".format(*at), texts)
        return
    chapters: dict[tuple[int, int], list[str]] = {}
    for book, chapter, verse in sorted(verses[0]):
        text = verses[0][book, chapter, verse]
        chapters.setdefault((book, chapter), []).append(text)
    for (book, chapter), lines in chapters.items():
        yield WheelRow(f"{book}:{chapter}", {"text": "\n".join(lines)})


def _csv(text: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(text, newline=""))
