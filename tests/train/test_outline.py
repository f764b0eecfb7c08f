"""What is said of a run before it starts."""

import dataclasses

import pytest
from etils import epath

from llmjax.config import (
    Bytes,
    DataConfig,
    MixturePart,
    PrepareConfig,
    SequenceClassification,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers import tokenizer
from llmjax.tasks.labelled.sequence_classification import (
    SequenceClassificationTask,
)
from llmjax.train import outline, setup
from tests.train import toy


def described(data, source=None, **parts):
    """The words for a run on 12 documents, 240 tokens."""
    config = toy.change(toy.CONFIG, data=data, **parts)
    source = source(config) if source else toy.batches(config, documents=12)
    program = setup.build(config, toy.task(config), source.batch(0))
    manifest = {
        "corpus": "x_1",
        "dataset": {"documents": {"train": 12}},
        "token_files": {"text/train": {"documents": 12, "tokens": 240}},
    }
    here = epath.Path()
    corpus = Corpus(tokenizer.make(Bytes(), ()), (), manifest, here, here)
    return outline.of(program, source, [(MixturePart("x"), corpus)])


def test_a_run_in_words():
    rows = dict(line.split("  ", 1) for line in described({}).splitlines())
    rows = {name: text.strip() for name, text in rows.items()}
    assert rows["data"] == "x_1: train 12 documents, 240 tokens"
    assert rows["batch"].startswith("8 rows × 16 tokens = 128")
    assert rows["starts from"].startswith("random weights")
    assert "note" not in rows


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"seq_len": 512}, "data.seq_len=512 is more than all 240 tokens of the split"),
        ({"batch_size": 64}, "data.batch_size=64 is more than the"),
    ],
)
def test_sizes_beyond_the_data_are_noted(data, note):
    assert f"note: {note}" in described(data)


def test_a_class_without_a_text_to_learn_from_is_noted(tmp_path):
    (folder := tmp_path / "own").mkdir()
    for name, labels in (("train", "ab"), ("validation", "abc")):
        rows = [f"{name} {i},{labels[i % len(labels)]}" for i in range(12)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    rules = PrepareConfig(label="label", test=0.0, workers=1)
    data = DataConfig(
        source=str(folder),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        prepare=rules,
    )
    corpora = [(MixturePart("x"), prepare.prepare(data))]
    config = dataclasses.replace(
        toy.CONFIG,
        task=SequenceClassification(None, ("a", "b", "c")),
        data=dataclasses.replace(data, packing="pad", seq_len=16),
    )
    unseen = SequenceClassificationTask.unseen
    opened = [corpus for _, corpus in corpora]
    assert unseen(config.task, opened, "train") == ["c"]
    assert unseen(config.task, [], "train") == []


@pytest.mark.parametrize(("length", "cut"), [(6, "2 texts"), (9, "1 text"), (13, None)])
def test_texts_that_are_cut_are_noted(length, cut):
    def clipped(config):
        documents = from_documents([range(3, 3 + n) for n in (4, 12, 8)])
        bound = toy.task(config)
        source = bound.examples(documents)
        return Pipeline(source, bound.features, config.data, bound.length)

    words = described({"seq_len": length, "packing": "pad"}, clipped)
    assert ("only the start is read" in words) == (cut is not None)
    if cut:
        assert f"so that only the start is read: {cut} of the split 'train'" in words
        assert f"note: longer than data.seq_len={length}, " in words
