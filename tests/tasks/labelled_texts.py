"""Rows of labelled texts, and the task that is bound to them."""

import csv
import dataclasses
import json

from llmjax.config import Bytes, DataConfig, PrepareConfig, RunConfig
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.tasks.labelled.sequence_classification import SequenceClassificationTask
from llmjax.tasks.registry import make_task

PAIRS = [
    {"premise": "It rains.", "hypothesis": "wet", "label": "yes"},
    {"premise": "It burns.", "hypothesis": "x" * 30, "label": "no"},
    {"premise": "y" * 40, "hypothesis": "dry", "label": "no"},
]
SETS = [
    {"text": "a b", "labels": ["old", "big"]},
    {"text": "c", "labels": []},
    {"text": "d", "labels": ["new"]},
]
NUMBERS = [{"text": "a b", "score": 1.5}, {"text": "c", "score": "-2"}]
WHOLE = PrepareConfig(validation=0.0, test=0.0)


def run_of(tmp_path, tiny, rows, task, **data):
    """A run on a .jsonl of rows, or a .csv if they are lists, completed as runs are."""
    if isinstance(rows[0], dict):
        file = tmp_path / "train.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file = tmp_path / "train.csv"
        with file.open("w", newline="") as f:
            csv.writer(f).writerows(rows)
    fields = {"seq_len": 24, "batch_size": 4, "packing": "pad", "prepare": WHOLE} | data
    config = DataConfig(
        source=str(file), directory=str(tmp_path / "cache"), tokenizer=Bytes(), **fields
    )
    kind = SequenceClassificationTask
    config = kind.with_columns(task, config, said=True)
    corpus = prepare.prepare(config)
    task = kind.with_labels(task, kind.classes(task, [corpus]))
    task = kind.with_counts(task, [corpus], "train")
    model = dataclasses.replace(
        tiny, architecture="encoder", vocab_size=512, token_types=2
    )
    return RunConfig(model, task, config), corpus


def bound(*args, **data):
    run, corpus = run_of(*args, **data)
    task = make_task(run, corpus.tokenizer)
    return task, corpus, task.source(corpus, "train")


def batch_of(task, source, **data):
    own = dataclasses.replace(task.run.data, **data)
    pipeline = Pipeline(source, task.features, own, task.length, declared=task.declared)
    return next(pipeline.evaluation())
