"""Mistakes in configs and rows of classified texts: named, with row, field, remedy."""

import dataclasses
import json

import pytest

from llmjax.config import (
    BalancedWeights,
    DataConfig,
    GivenWeights,
    LossConfig,
    MultiLabel,
    Ordinal,
    PrepareConfig,
    Regression,
    RunConfig,
    SequenceClassification,
    SingleLabel,
)
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.labelled.sequence_classification import SequenceClassificationTask
from llmjax.tasks.registry import make_task
from tests.tasks.labelled_texts import (
    NUMBERS,
    PAIRS,
    SETS,
    bound,
    run_of,
)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"pair_field": "text"}, "pair_field='text' and label_field='label' name one"),
        ({"num_labels": 1}, "one class alone says nothing by problem.kind='single_la"),
        (
            {"labels": ("a", "b"), "problem": SingleLabel(GivenWeights((1.0,)))},
            "values has 1 weights for 2 classes; give one for each",
        ),
    ],
)
def test_configs_that_cannot_be_are_named(task, message):
    with pytest.raises(ValueError, match=message):
        SequenceClassification(**task)


@pytest.mark.parametrize(
    ("loss", "problem", "message"),
    [
        ({"label_smoothing": 0.1}, Regression(), "loss.label_smoothing=0.1 is no term"),
        ({"z_loss": 0.1}, MultiLabel(), "z_loss=0.1 is no term .*='multi_label_class"),
        ({"z_loss": 0.1}, Ordinal(), "z_loss=0.1 is no term .*='ordinal_regression'"),
        ({}, SingleLabel(BalancedWeights()), "has no values, which are counted in the"),
    ],
)
def test_runs_that_do_not_fit_are_refused(loss, problem, message, tiny):
    task = SequenceClassification(3, problem=problem)
    data = DataConfig(packing="pad")
    run = RunConfig(tiny, task, data, loss=LossConfig(**loss))
    with pytest.raises(ValueError, match=message):
        make_task(run, PlainVocabulary(40))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seq_len": 4}, "data.seq_len=4 leaves no room for two texts beside 3"),
        ({"token_types": 1}, "by 2 token types, and model.token_types=1"),
    ],
)
def test_a_pair_that_has_no_place_is_refused(fields, message, tiny):
    model = dataclasses.replace(
        tiny, architecture="encoder", token_types=fields.get("token_types", 2)
    )
    data = DataConfig(packing="pad", seq_len=fields.get("seq_len", 16))
    run = RunConfig(model, SequenceClassification(2, pair_field="b"), data)
    with pytest.raises(ValueError, match=message):
        make_task(run, PlainVocabulary(40))


NLI = SequenceClassification(labels=("no", "yes"), pair_field="text_pair")
SEVERAL = SequenceClassification(problem=MultiLabel())
NUMBER = SequenceClassification(problem=Regression())


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (NLI, [*PAIRS, PAIRS[0] | {"label": 5}], r"line 4: .*int 5 and no class; ac"),
        (NLI, [PAIRS[0] | {"hypothesis": 3}], "line 1: .*'hypothesis' is int 3 and no"),
        (
            NLI,
            [{"a": "x", "b": "y", "label": 0}],
            "name those of the two texts in",
        ),
        (SEVERAL, [SETS[0] | {"labels": None}], "line 1: .* is nothing and no list of"),
        (
            SEVERAL,
            [SETS[0] | {"labels": [""]}],
            "line 1: .* list with str '', which",
        ),
        (SEVERAL, [SETS[1]], "no record has a class in 'label'; fill it, or name"),
        (
            SEVERAL,
            [{"text": "a", "x": 1}],
            "that of the classes .* each goes into",
        ),
        (NUMBER, [NUMBERS[0] | {"score": "high"}], "line 1: .* str 'high' and no numb"),
        (NUMBER, [NUMBERS[0] | {"score": None}], "line 1: .* is nothing and no number"),
        (NUMBER, [NUMBERS[0] | {"score": "nan"}], "str 'nan' and no finite number"),
        (NUMBER, [NUMBERS[0] | {"score": []}], "an empty list and no numbers"),
    ],
)
def test_rows_that_cannot_be_are_named(task, rows, message, tmp_path, tiny):
    with pytest.raises(ValueError, match=message):
        bound(tmp_path, tiny, rows, task)


def test_classes_that_the_task_has_not_are_named(tmp_path, tiny):
    run, corpus = run_of(tmp_path, tiny, SETS, SEVERAL)
    task = dataclasses.replace(run.task, labels=("big", "new", "odd"))
    with pytest.raises(ValueError, match="record 0 .* has the class 'old', and ta"):
        make_task(dataclasses.replace(run, task=task), corpus.tokenizer).source(
            corpus, "train"
        )


def test_a_class_that_is_never_learned_is_said(tmp_path, tiny):
    for split, rows in (("train", SETS[:2]), ("test", SETS[2:]), ("dev", SETS)):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    run, _ = run_of(tmp_path, tiny, SETS, SEVERAL)
    prepared = PrepareConfig(fields=run.data.prepare.fields)
    data = dataclasses.replace(run.data, source=str(folder), prepare=prepared)
    corpus = prepare.prepare(data)
    kind = SequenceClassificationTask
    task = kind.with_labels(SEVERAL, kind.classes(SEVERAL, [corpus]))
    assert task.labels == ("big", "new", "old")
    assert kind.unseen(task, [corpus], "train") == ["new"]
