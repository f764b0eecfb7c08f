"""Labels and numbers of records: any value becomes a typed one, or is named."""

import json
import random

import numpy as np
import pytest

from llmjax.config import (
    Bytes,
    DataConfig,
    Label,
    Labels,
    Number,
    Numbers,
    PrepareConfig,
    RecordField,
)
from llmjax.data.files import typed_values
from llmjax.data.files.slices import Row
from llmjax.data.prepare import prepare
from llmjax.data.store.record_schema import RecordSchema

KINDS = [
    Label(("a", "b")),
    Labels(),
    Labels(classes=("a", "b")),
    Labels(separator=", "),
    Labels(("first", "second")),
    Number(),
    Numbers(),
    Numbers(("first", "second")),
]
SEEDS = [
    *(None, "", " ", "a", "b;a", "a, b", '["a"]', "[", "[1, 2]", "nan", "1e999", "0x1"),
    *(0, 1, -1, 2**70, 1.5, float("nan"), float("inf"), True, b"a", b"\xff", "\ud800"),
    *([], [None], ["a", "a"], [["a"]], {"a": 1}, [1, "b"], [float("nan")], ("a",)),
]


def read(kind, values):
    field = RecordField("label", "column", kind)
    schema = RecordSchema.of([field])
    row = Row(dict(zip(field.columns, values, strict=False)), "x.csv, line 7".__str__)
    return typed_values.record(row, [field], schema)["label"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_value_is_typed_or_named(kind):
    rng = random.Random(0)
    loaded = 0
    for _ in range(500):
        values = [mutated(rng, rng.choice(SEEDS)) for _ in range(2)]
        try:
            value = read(kind, values)
        except ValueError as e:
            said = str(e)
            assert said.startswith("x.csv, line 7: the column '") and "\n" not in said
            assert "mend it" in said and "of data.prepare.fields" in said
            continue
        loaded += 1
        if isinstance(kind, Labels):
            assert len({*value}) == len(value) and all(
                isinstance(v, str) for v in value
            )
        elif isinstance(kind, Label):
            assert value is None or value in kind.classes
        else:
            assert np.isfinite(value).all() and np.size(value) > 0
    assert 0 < loaded < 500


def mutated(rng, value):
    """A value with something taken away, doubled or wrapped."""
    kind = rng.randrange(4)
    if kind == 1 and isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        return value[:place] + rng.choice(["", ";", "[", '"', "0", "é"]) + value[place:]
    if kind == 2:
        return [value, rng.choice(SEEDS)]
    return str(value) if kind == 3 else value


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (Labels(), ["b; a ;b"], ["b", "a"]),
        (Labels(), ['["b", "a;c"]'], ["b", "a;c"]),
        (Labels(separator="|"), ["a;b|c"], ["a;b", "c"]),
        (Labels(), [3], ["3"]),
        (Labels(classes=("x", "y")), [[1, "x"]], ["y", "x"]),
        (Labels(("first", "second")), [True, "0.0"], ["first"]),
        (Numbers(), [" [1, 2.5]"], [1.0, 2.5]),
        (Numbers(("first", "second")), ["1e2", -3], [100.0, -3.0]),
    ],
)
def test_values_that_are_meant(kind, values, expected):
    assert read(kind, values) == expected


def test_records_keep_labels_and_numbers(tmp_path):
    rows = [
        {"text": "a", "tags": ["y", "x"], "p": 1, "q": 0, "m": 0.5, "n": -2},
        {"text": "b", "tags": [], "p": 0, "q": 0, "m": 1e-3, "n": 3},
        {"text": "c", "tags": ["z"], "p": 1, "q": 1, "m": 7, "n": 0},
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = (
        RecordField(),
        RecordField("tags", type=Labels()),
        RecordField("flags", type=Labels(("p", "q"))),
        RecordField("scores", type=Numbers(("m", "n"))),
        RecordField("one", "m", Number()),
    )
    data = DataConfig(
        source=str(file),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=PrepareConfig(fields=fields, validation=0.0, test=0.0),
    )
    corpus = prepare.prepare(data)
    assert corpus.schema.fields["tags"].classes == ("x", "y", "z")
    assert corpus.schema.fields["flags"].classes == ("p", "q")
    records = corpus.records("train")
    assert records.label_sets("tags").tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert records.label_sets("flags").tolist() == [[1, 0], [0, 0], [1, 1]]
    assert records.numbers("scores") == [[0.5, -2], [1e-3, 3], [7, 0]]
    assert records.numbers("one") == [[0.5], [1e-3], [7]]
    record = records[0]
    assert record["tags"].tolist() == [1, 0] and record["flags"].tolist() == [0]
    np.testing.assert_array_equal(record["scores"], np.float32([0.5, -2]))


def test_the_same_files_as_texts_and_as_numbers_are_two_corpora(tmp_path):
    """Neither type has a field that tells them apart."""
    file = tmp_path / "train.csv"
    file.write_text("text,score\na,1\nb,2\n")
    for kind in (RecordField("score"), RecordField("score", type=Number())):
        fields = (RecordField(), kind)
        data = DataConfig(
            source=str(file),
            directory=str(tmp_path / "cache"),
            tokenizer=Bytes(),
            prepare=PrepareConfig(fields=fields, validation=0.0, test=0.0),
        )
        corpus = prepare.prepare(data)
        assert corpus.schema.fields["score"] == kind.type
