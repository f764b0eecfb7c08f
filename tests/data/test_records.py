"""Records come back from every format, and tokens know their characters."""

import csv
import dataclasses
import json
import pathlib
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from llmjax.config import (
    BPE,
    Bytes,
    DataConfig,
    Label,
    Number,
    PrepareConfig,
    RecordField,
    Spans,
    Tags,
    Texts,
    Unigram,
    WordPiece,
    Words,
    default,
    parse,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.files import typed_values
from llmjax.data.files.slices import Row
from llmjax.data.prepare import prepare
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.record_schema import RecordSchema

FIELDS = (
    RecordField("context"),
    RecordField("answers", type=Spans()),
    RecordField("entities", "ents", Spans()),
    RecordField("tokens", type=Words()),
    RecordField("ner", "ner_tags", Tags()),
    RecordField("score", type=Number()),
    RecordField("choices", type=Texts()),
    RecordField("label", type=Label()),
)
TYPES = ("LOC", "ORG", "PER")


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Records with texts that are not all ASCII, as a .jsonl has them."""
    rng = random.Random(0)
    out = []
    for k in range(count):
        words = [f"{rng.choice('bdfkß')}{rng.randrange(99)}é" for _ in range(8 + k % 5)]
        context = "  ".join(words) + " 😀.\n"
        at = [context.index(w) for w in words]
        spans = sorted(rng.sample(range(len(words)), 2))
        out.append(
            {
                "context": context,
                "answers": {
                    "text": [words[i] for i in spans],
                    "answer_start": [at[i] for i in spans],
                },
                "ents": {
                    "start": [at[i] for i in spans],
                    "end": [at[i] + len(words[i]) for i in spans],
                    "label": [TYPES[(k + i) % 3] for i in spans],
                },
                "tokens": words,
                "ner_tags": [TYPES[(k + i) % 3] for i in range(len(words))],
                "score": k / 8,
                "choices": [f"choice {i} of {k}" for i in range(k % 4)],
                "label": k % 11 if k % 5 else None,
            }
        )
    return out


def write_jsonl(path: pathlib.Path) -> str:
    path /= "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return str(path)


def write_parquet(path: pathlib.Path) -> str:
    path /= "a.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows()), path, row_group_size=7)
    return str(path)


def write_csv(path: pathlib.Path) -> str:
    path /= "a.csv"
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(rows()[0])
        for row in rows():
            row["tokens"] = " ".join(row["tokens"])
            row["ner_tags"] = " ".join(row["ner_tags"])
            cells = (v if isinstance(v, str) else json.dumps(v) for v in row.values())
            writer.writerow("" if cell == "null" else cell for cell in cells)
    return str(path)


class Reading(tfds.core.GeneratorBasedBuilder):
    """The same records, with classes by number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "context": f.Text(),
            "answers": f.Sequence({"text": f.Text(), "answer_start": np.int32}),
            "ents": f.Sequence({"start": np.int32, "end": np.int32, "label": f.Text()}),
            "tokens": f.Sequence(f.Text()),
            "ner_tags": f.Sequence(f.ClassLabel(names=[*TYPES])),
            "score": np.float32,
            "choices": f.Sequence(f.Text()),
            "label": f.ClassLabel(names=[str(k) for k in range(11)]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=f.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {
            "train": self._generate_examples(0, 50),
            "validation": self._generate_examples(50, 60),
        }

    def _generate_examples(self, start: int, stop: int) -> Any:
        for k, row in enumerate(rows()[start:stop]):
            label = -1 if row["label"] is None else row["label"]
            yield k, {**row, "label": label}


def write_tfds(path: pathlib.Path) -> str:
    builder = Reading(data_dir=path / "cache", file_format="array_record")
    builder.download_and_prepare()
    return "tfds:reading"


WRITERS: dict[str, Callable[[pathlib.Path], str]] = {
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "csv": write_csv,
    "tfds": write_tfds,
}


def data(source: str, folder: pathlib.Path, **fields: Any) -> DataConfig:
    rules = PrepareConfig(fields=FIELDS, validation=0.2, test=0.0)
    values = {"tokenizer": BPE(300), "prepare": rules, **fields}
    return DataConfig(source=source, directory=str(folder / "cache"), **values)


def check(corpus: Corpus, record: dict[str, Any], row: dict[str, Any]) -> None:
    """A record has all that its row has."""
    text = record["context"]
    assert text.text == row["context"]
    tokens = corpus.tokenizer.encode(text.text)
    np.testing.assert_array_equal(text.ids, tokens)
    for i, (start, stop) in zip(text.ids, text.offsets, strict=True):
        piece = corpus.tokenizer.decode([i])
        assert "\ufffd" in piece or text.text[start:stop].strip() == piece.strip()
    answers = row["answers"]
    found = [(text.text[a:b], c) for a, b, c in record["answers"]]
    assert found == [(answer, -1) for answer in answers["text"]]
    assert record["answers"][:, 0].tolist() == answers["answer_start"]
    for start, stop, _ in record["answers"]:  # a span survives the way to tokens
        first, last = text.covering(start, stop)
        joined = corpus.tokenizer.decode(text.ids[first:last])
        assert text.text[start:stop] in joined
    names = corpus.schema.fields["entities"].classes  # type: ignore[union-attr]
    assert [names[c] for _, _, c in record["entities"]] == row["ents"]["label"]
    assert record["entities"][:, 1].tolist() == row["ents"]["end"]
    words = record["tokens"]
    assert words.words == (*row["tokens"],)
    for k, word in enumerate(row["tokens"]):
        decoded = corpus.tokenizer.decode(words.ids[words.word_ids == k])
        assert decoded.strip() == word
    assert [TYPES[t] for t in record["ner"]] == row["ner_tags"]
    assert record["score"] == np.float32(row["score"])
    assert [c.text for c in record["choices"]] == row["choices"]
    for choice in record["choices"]:
        assert corpus.tokenizer.decode(choice.ids).strip() == choice.text
        assert choice.offsets[-1, 1] == len(choice.text)
    wanted = -1 if row["label"] is None else row["label"]
    assert record["label"] == wanted and record["label"].dtype == np.int32


@pytest.mark.parametrize("form", WRITERS)
def test_records_come_back_from_every_format(form: str, tmp_path: pathlib.Path) -> None:
    config = data(WRITERS[form](tmp_path), tmp_path)
    corpus = prepare.prepare(config)
    by_context = {row["context"]: row for row in rows()}
    seen = 0
    for split in ("train", "validation"):
        source = corpus.records(split)
        for i in range(len(source)):
            record = source[i]
            check(corpus, record, by_context[record["context"].text])
            texts = record["context"], record["tokens"], *record["choices"]
            assert source.lengths[i] == sum(len(t.ids) for t in texts)
            assert source.field_lengths("context")[i] == len(texts[0].ids)
            seen += 1
    assert seen == 60 and 3 <= len(source) <= 30
    again = pickle.loads(pickle.dumps(source))
    assert again[-1]["context"].text == source[len(source) - 1]["context"].text
    with pytest.raises(IndexError):
        source[len(source)]
    labels = corpus.schema.fields["label"]
    assert labels == Label(tuple(map(str, range(11))))  # 10 after 9
    assert prepare.open_corpus(config).manifest == corpus.manifest


def test_the_config_file_says_the_same() -> None:
    draft = default()
    draft.data.prepare.fields = (
        {"name": "context"},
        {"name": "answers", "type": {"kind": "spans"}},
        {"name": "ner", "column": "ner_tags", "type": {"kind": "tags", "words": "w"}},
    )
    assert parse(draft).data.prepare.fields == (
        *FIELDS[:2],
        RecordField("ner", "ner_tags", Tags("w")),
    )


@pytest.mark.parametrize("kind", [Bytes(), WordPiece(300), Unigram(300)])
def test_every_tokenizer_keeps_offsets_and_the_records(
    kind: Any, tmp_path: pathlib.Path
) -> None:
    config = data(write_jsonl(tmp_path), tmp_path)
    first = prepare.prepare(config)
    corpus = prepare.prepare(dataclasses.replace(config, tokenizer=kind))
    assert corpus.folder != first.folder and corpus.dataset == first.dataset
    source = corpus.records("train")
    for i in range(len(source)):
        text, words = source[i]["context"], source[i]["tokens"]
        for start, stop, _ in source[i]["answers"]:
            first_token, last = text.covering(start, stop)
            assert text.offsets[first_token, 0] <= start
            assert text.offsets[last - 1, 1] >= stop
        assert set(words.word_ids.tolist()) == {*range(len(words.words))}
        starts = np.cumsum([0, *(len(w) + 1 for w in words.words)])
        for (start, stop), k in zip(words.offsets, words.word_ids, strict=True):
            # A token lies in its word, or in the space before it.
            assert starts[k] - 1 <= start <= stop < starts[k + 1]


def test_packed_rows_have_the_tags_of_their_tokens(tmp_path: pathlib.Path) -> None:
    corpus = prepare.prepare(data(write_jsonl(tmp_path), tmp_path))

    class Tokens:
        """The words of records, with the lengths that packing needs."""

        def __init__(self) -> None:
            self.records = corpus.records("train")
            self.lengths = self.records.field_lengths("tokens")

        def __len__(self) -> int:
            return len(self.records)

        def __getitem__(self, index: int, /) -> dict[str, Any]:
            return {**self.records[index], "number": index}

    def features(record: dict[str, Any], _: Any) -> dict[str, np.ndarray]:
        words = record["tokens"]
        tags = record["ner"][words.word_ids]
        label, number = record["label"], np.int32(record["number"])
        return {"tokens": words.ids, "tags": tags, "label": label, "number": number}

    source = Tokens()
    T = int(source.lengths.max()) * 3
    config = DataConfig(batch_size=4, seq_len=T, packing="first_fit")
    packed = 0
    for batch in Pipeline(source, features, config).evaluation():
        packed = max(packed, int(batch["valid"].sum(axis=1).max()))
        for row, g in zip(*np.nonzero(batch["valid"]), strict=True):
            record = source[int(batch["number"][row, g])]
            here = batch["segment_ids"][row] == g + 1
            wanted = features(record, None)
            np.testing.assert_array_equal(batch["tokens"][row][here], wanted["tokens"])
            np.testing.assert_array_equal(batch["tags"][row][here], wanted["tags"])
            assert batch["label"][row, g] == record["label"]
    assert packed >= 3


def test_records_are_written_once_and_checked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = data(write_jsonl(tmp_path), tmp_path)
    corpus = prepare.prepare(config)
    from llmjax.data.prepare import record_files
    from llmjax.data.store import record_writing

    def never(*args: Any) -> None:
        raise AssertionError("written again")

    with monkeypatch.context() as patch:
        patch.setattr(record_writing, "write_tokens", never)
        patch.setattr(record_files, "_write", never)
        assert prepare.prepare(config).manifest == corpus.manifest
    fewer = dataclasses.replace(config.prepare, fields=FIELDS[:1])
    other = dataclasses.replace(config, prepare=fewer)
    assert prepare.corpus_name(other) != corpus.manifest["corpus"]
    for folder in (corpus.dataset, corpus.folder / "records"):
        path = folder / "train.arrow"
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + b"x" + whole[-8:])
        with pytest.raises(ValueError, match=r"train\.arrow is corrupted.*prepare_dat"):
            prepare.open_corpus(config)
        path.write_bytes(whole)
    with pytest.raises(ValueError, match="no split 'tset'; accepted: train, valid"):
        corpus.records("tset")
    with pytest.raises(ValueError, match=r"has records and no documents.*records\(spl"):
        corpus.source("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"context": 3},
            r"line 2: the column 'context' is int 3 and no text",
        ),
        ({"score": "high"}, r"line 2: the column 'score' is str 'high' and no number"),
        ({"score": None}, r"'score' is nothing and no number"),
        ({"score": float("nan")}, r"'score' is float nan and no finite number"),
        ({"score": "1e999"}, r"'score' is str '1e999' and no finite number"),
        ({"score": 10**400}, r"'score' is int 1000.* and no number"),
        ({"label": 0.5}, r"'label' is float 0\.5 and no class"),
        ({"tokens": 3}, r"'tokens' is int 3 and no list of words"),
        ({"choices": ["a", 1]}, r"'choices' is int 1 and no text"),
        ({"choices": "a"}, r"'choices' is str 'a' and no JSON"),
        (
            {"ner_tags": ["PER"]},
            r"'ner_tags' is 1 tags for \d+ words of 'tokens'",
        ),
        ({"label": [1]}, r"'label' is list \[1\] and no class"),
        (
            {"answers": {"text": ["no"], "answer_start": [0]}},
            r"'answers' is 'no' at the character 0 of 'context', where there is '..'",
        ),
        (
            {"ents": [[2, 999]]},
            r"'ents' is a span \[2, 999\) that is not in the",
        ),
        ({"ents": [[5, 2, "PER"]]}, r"'ents' is a span \[5, 2\)"),
        ({"ents": [3]}, r"'ents' is int 3 and no span, such as"),
        (
            {"ents": {"start": [1], "end": []}},
            r"lists of several lengths \(sta",
        ),
    ],
)
def test_wrong_values_name_their_place(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "a.jsonl"
    good, bad = rows(2)
    path.write_text("\n".join(json.dumps(r) for r in (good, {**bad, **change})))
    with pytest.raises(ValueError, match=rf"a\.jsonl.*{message}"):
        prepare.prepare(data(str(path), tmp_path))
    assert not [*(tmp_path / "cache").rglob("*.arrow")]


@pytest.mark.parametrize(
    ("own", "names"), [((), ["1", "2", None]), (("1", "2"), ["2", "1", None])]
)
def test_a_number_is_a_class_by_its_place_where_the_data_names_them(
    own: tuple[str, ...], names: list[str | None]
) -> None:
    """Classes called "1" and "2", as TFDS's yelp_polarity_reviews has them."""
    fields = (
        RecordField("text"),
        RecordField("label", type=Label(own)),
        RecordField("spans", type=Spans("text", own)),
    )
    named = {"label": ("1", "2"), "spans": ("1", "2")}
    schema = RecordSchema.of(fields).with_classes(named)
    values = [0, 1, -1] if not own else [2, 1, -1]
    for value, name in zip(values, names, strict=True):
        row = Row({"text": "a", "label": value, "spans": [[0, 1, value]]}, str)
        record = typed_values.record(row, fields, schema)
        assert (record["label"], record["spans"][0][2]) == (name, name)


def test_the_values_of_a_label_are_the_classes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jsonl"
    kinds = [-1, 0, 1.0, 1, "", None]
    lines = (json.dumps({"text": str(i), "kind": k}) for i, k in enumerate(kinds))
    path.write_text("\n".join(lines))
    for own, classes, labels in (
        ((), ("-1", "0", "1"), [0, 1, 2, 2, -1, -1]),
        (("no", "yes"), ("no", "yes"), [-1, 0, 1, 1, -1, -1]),
        (("1", "-1", "0"), ("1", "-1", "0"), [1, 2, 0, 0, -1, -1]),
    ):
        fields = RecordField("text"), RecordField("kind", type=Label(own))
        rules = PrepareConfig(fields=fields, validation=0.0, test=0.0)
        corpus = prepare.prepare(data(str(path), tmp_path, prepare=rules))
        assert corpus.schema.fields["kind"] == Label(classes)
        records = corpus.records("train")
        assert [records[i]["kind"] for i in range(len(records))] == labels


def test_wrong_fields_name_what_there_is(tmp_path: pathlib.Path) -> None:
    def made(*fields: RecordField, source: str = write_jsonl(tmp_path)) -> None:
        config = data(source, tmp_path)
        rules = dataclasses.replace(config.prepare, fields=fields)
        prepare.prepare(dataclasses.replace(config, prepare=rules))

    absent = RecordField("question")
    has = r"no field 'question'; it has 'context', .*: set the column of the field"
    for form in ("jsonl", "parquet", "csv"):
        with pytest.raises(ValueError, match=rf"a\.{form}.*{has}"):
            made(absent, source=WRITERS[form](tmp_path))
    with pytest.raises(ValueError, match=rf"dataset reading/1\.0\.0 has {has[:30]}"):
        made(absent, source=write_tfds(tmp_path))
    with pytest.raises(ValueError, match=r"tags 'ner' have words=''; .*there is none"):
        made(FIELDS[0], FIELDS[4])
    with pytest.raises(ValueError, match=r"'a' have text='b'; .*'text' \('context'\)"):
        made(FIELDS[0], RecordField("a", type=Spans("b")))
    known = RecordField("label", type=Label(("1", "2")))
    with pytest.raises(ValueError, match="int 3 and no class; accepted: 1, 2"):
        made(FIELDS[0], known)
    with pytest.raises(ValueError, match="fields have the names a, a"):
        PrepareConfig(fields=(RecordField("a"), RecordField("a")))
    with pytest.raises(ValueError, match="name 'a b' is no identifier"):
        RecordField("a b")
