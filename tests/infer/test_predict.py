"""Rows in chunks, by length, over devices; and the file that they are written to."""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

from llmjax.config import DataConfig, RunConfig, SequenceClassification
from llmjax.data.files.slices import Row
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.infer import predict
from llmjax.infer.output import Output
from llmjax.infer.predict import Predictor, chunks
from llmjax.parallel.mesh import make_mesh
from llmjax.tasks.registry import make_task
from llmjax.train import lock

LABELS = ("a", "b", "c")
COLUMNS = {"text": "review"}


class Vocabulary(PlainVocabulary):
    """A token for each letter."""

    def encode_batch(self, texts):
        return [np.array([ord(c) % 30 + 3 for c in text], np.int32) for text in texts]


@pytest.fixture(scope="module")
def run(tiny):
    task = SequenceClassification(labels=LABELS, pooling="mean")
    cfg = dataclasses.replace(tiny, architecture="encoder", num_layers=1)
    return RunConfig(cfg, task, DataConfig(seq_len=100, packing="pad"))


@pytest.fixture(scope="module")
def make(run, random_params):
    """(devices, rows of a batch) -> a predictor; its weights are always the same.

    Also with the source of the run's texts.
    """
    task = make_task(run, Vocabulary(40))
    model = task.model(run.model, run.layout)
    params = random_params(model, {"tokens": np.zeros((1, 4), np.int32)})

    def predictor(devices, batch_size, source="python_docs"):
        mesh = make_mesh(run.layout, jax.devices()[:devices])
        data = dataclasses.replace(run.data, source=source)
        config = dataclasses.replace(run, data=data)
        return Predictor(config, task, params, batch_size, mesh)

    return predictor


def table(lengths):
    rng = np.random.default_rng(0)
    letters = np.array([*"abcdefghij"])
    texts = ["".join(rng.choice(letters, n)) for n in lengths]
    places = (partial("file, line {}".format, i) for i in itertools.count(1))
    return [Row({"review": t}, where) for t, where in zip(texts, places, strict=False)]


LENGTHS = [1, 98, 3, 40, 29, 31, 0, 61, 150, 7, 20, 64, 98, 2, 33, 12, 5, 30, 31, 99, 9]


def test_every_row_has_its_own_answer_on_any_number_of_devices(make):
    rows = table(LENGTHS)
    one, eight = make(1, 2), make(8, 2)
    answers = one(rows, COLUMNS)
    assert eight(rows, COLUMNS) == answers  # to the bit
    assert one.cut == eight.cut == 2  # with two specials around 98 letters fit
    assert one._program.predict._cache_size() == 3  # of 32, 64 and 100 tokens
    for row, answer in zip(rows, answers, strict=True):
        (alone,) = one([row], COLUMNS)
        assert alone["label"] == answer["label"]
        assert alone["probabilities"] == pytest.approx(
            answer["probabilities"], abs=1e-6
        )
        assert sum(alone["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert [*alone["probabilities"]] == [*LABELS]
    assert len({round(a["probability"], 5) for a in answers}) > 15


def test_a_text_without_a_token_is_named(make, monkeypatch):
    predictor = make(1, 2)
    monkeypatch.setattr(
        type(predictor.task), "length", lambda self, n: n
    )  # as GPT-2's tokenizer, which puts nothing around a text
    with pytest.raises(ValueError, match="file, line 3: the text is empty, and this"):
        predictor(table([4, 5, 0, 2]), COLUMNS)


def test_chunks_begin_where_a_chunk_begins(monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 4)
    rows = table([1] * 10)
    assert [[*c] for c in chunks(iter(rows), 0)] == [rows[:4], rows[4:8], rows[8:]]
    assert [[*c] for c in chunks(iter(rows), 4)] == [rows[4:8], rows[8:]]
    assert [*chunks(iter(rows), 12)] == []


def test_texts_are_cleaned_as_those_that_were_learned_from(make):
    """Those of files; other corpora bring their texts as they are."""
    (broken,), (whole,) = table([1]), table([1])
    broken.values["review"], whole.values["review"] = "schÃ¶n", "schön"
    (mended,) = make(1, 2, "texts.csv")([broken], COLUMNS)
    as_is = make(1, 2)
    assert [mended] == as_is([whole], COLUMNS) != as_is([broken], COLUMNS)


# --- the file ------------------------------------------------------------------------

ROWS = [
    {"row": i, "text": f'li\nne, "{i}"', "p": {"a": i / 2, "b": 0.5}} for i in range(6)
]
IDENTITY = {"run": "x", "input": ["file", 3]}


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_table_that_was_cut_short_goes_on_to_the_same_bytes(name, tmp_path):
    whole = Output(tmp_path / f"whole-{name}", IDENTITY)
    whole.write(ROWS[:2], {"n": 2})
    whole.write(ROWS[2:], {"n": 6})
    whole.finish()
    assert [p.name for p in tmp_path.iterdir()] == [whole.path.name]

    Output(tmp_path / name, IDENTITY).close()  # killed before anything was written
    output = Output(tmp_path / name, IDENTITY)
    output.write(ROWS[:2], {"n": 2})
    output._file.write(b'{"row": 2, "te')
    output.close()
    assert not (tmp_path / name).exists()
    output = Output(tmp_path / name, IDENTITY)
    assert output.rows == 2 and output.counts == {"n": 2}
    output.write(ROWS[2:], {"n": 6})
    output.finish()
    assert (tmp_path / name).read_bytes() == whole.path.read_bytes()
    first = (tmp_path / name).read_text().splitlines()[0]
    if name == "out.csv":
        assert first == "row,text,p.a,p.b"
    else:
        assert json.loads(first) == ROWS[0]


def test_another_table_is_not_gone_on_with(tmp_path):
    path = tmp_path / "out.jsonl"
    output = Output(path, IDENTITY)
    output.write(ROWS, {})
    output.close()
    with pytest.raises(ValueError, match=r"begun with input \['file', 3\] and this is"):
        Output(path, IDENTITY | {"input": ["file", 4]})
    progress = tmp_path / "out.jsonl.progress"
    text = progress.read_text()
    progress.write_text(text[:20])
    with pytest.raises(ValueError, match=r"out.jsonl.progress is damaged; remove it"):
        Output(path, IDENTITY)
    progress.write_text(text)
    (tmp_path / "out.jsonl.part").write_bytes(b"")
    with pytest.raises(ValueError, match=r"out.jsonl.part has lost its end"):
        Output(path, IDENTITY)
    path.touch()
    with pytest.raises(ValueError, match="is there; remove it, or give another"):
        Output(path, IDENTITY)


HOLDER = """
import sys
from llmjax.infer.output import Output
output = Output(__import__("pathlib").Path(sys.argv[1]), {})
output.write([{"row": 0}], {})
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_of_the_first_and_a_dead_one_holds_nothing(tmp_path):
    path = tmp_path / "out.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout.readline() == "begun\n"
        with pytest.raises(ValueError) as error:
            Output(path, {})
        Output(tmp_path / "other.jsonl", {}).close()
        first.kill()
    for word in (f"out.jsonl in {tmp_path} is", f"process {first.pid} on ", "--output"):
        assert word in str(error.value)
    output = Output(path, {})
    assert output.rows == 1
    output.finish()
    assert {*tmp_path.iterdir()} == {path}


def test_a_lock_that_its_holder_removed_is_no_lock(tmp_path, monkeypatch):
    """Opened before the first had finished, locked after it."""
    path = tmp_path / ".lock"
    first, second, third = (contextlib.ExitStack() for _ in range(3))
    assert lock.acquire(path, first) is None
    open_ = os.open

    def finish(*args):
        file = open_(*args)
        path.unlink(missing_ok=True)
        first.close()
        monkeypatch.undo()
        return file

    monkeypatch.setattr(lock.os, "open", finish)
    assert lock.acquire(path, second) is None
    assert "process" in lock.acquire(path, third)
    second.close()
    third.close()
