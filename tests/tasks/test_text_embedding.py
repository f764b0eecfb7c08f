"""Text embedding: rows and their faults, prompts, columns, runs that do not fit."""

import dataclasses
import json

import numpy as np
import pytest

from llmjax.config import (
    Bytes,
    CoSENT,
    CosineRegression,
    DataConfig,
    Ranking,
    RunConfig,
    TextEmbedding,
    Truncation,
)
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.embedding.embedding import TextEmbeddingTask
from llmjax.tasks.registry import make_task
from tests.tasks.embeddings import of_config

pytestmark = pytest.mark.usefixtures("quick_compile")
ROWS = [
    {"query": "a red car", "positive": "cars", "negatives": ["blue", "green tree"]},
    {"query": "two", "positive": "2", "negatives": ["three"]},
    {"query": "x" * 40, "positive": "y" * 40, "negatives": []},
]


def run_of(tmp_path, tiny, rows, ending="jsonl", **fields):
    file = tmp_path / f"train.{ending}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        source=str(file),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        seq_len=24,
        batch_size=4,
        packing="pad",
    )
    whole = dataclasses.replace(data.prepare, validation=0.0, test=0.0)
    task = TextEmbedding(**fields)
    data = dataclasses.replace(data, prepare=whole)
    data = TextEmbeddingTask.with_columns(task, data, said=False)
    model = dataclasses.replace(tiny, architecture="encoder", vocab_size=512)
    return RunConfig(model, task, data)


def made(run):
    corpus = prepare.prepare(run.data)
    task = make_task(run, corpus.tokenizer)
    return task, task.source(corpus, "train"), corpus


def batch_of(task, source):
    pipeline = Pipeline(
        source, task.features, task.run.data, task.length, declared=task.declared
    )
    return next(pipeline.evaluation())


# --- rows ----------------------------------------------------------------------------


def test_rows_become_streams_with_prompts(tmp_path, tiny):
    prompts = {"query_prompt": "query: ", "passage_prompt": "passage: "}
    run = run_of(tmp_path, tiny, ROWS, negatives=2, max_query=16, **prompts)
    task, source, corpus = made(run)
    batch = batch_of(task, source)
    assert source.cut == 1 and batch["valid"].tolist() == [1, 1, 1, 0]
    assert batch["anchor_tokens"].shape == (4, 16) and batch["tokens"].shape == (4, 24)

    def text(name, k):
        ids = batch[f"{name}tokens"][k][batch[f"{name}segment_ids"][k] > 0]
        if len(ids):
            assert (ids[0], ids[-1]) == (
                corpus.tokenizer.bos_id,
                corpus.tokenizer.eos_id,
            )
        return corpus.tokenizer.decode(ids)

    assert text("anchor_", 0) == "query: a red c"  # 14 tokens beside two special ones
    assert text("", 0) == "passage: cars"
    assert [text(f"negative{c}_", 0) for c in (1, 2)] == [
        "passage: blue",
        "passage: green tree",
    ]
    assert [text(f"negative{c}_", 1) for c in (1, 2)] == ["passage: three", ""]


def test_of_many_negatives_some_are_drawn_anew(tmp_path, tiny):
    rows = [{**ROWS[0], "negatives": [*"abcdefgh"]}] * 2
    task, source, _ = made(run_of(tmp_path, tiny, rows))
    assert task.num_negatives == 1
    drawn = {
        task.features(source[0], np.random.default_rng(k))["negative1_tokens"][1]
        for k in range(20)
    }
    assert len(drawn) > 2


@pytest.mark.parametrize(
    ("names", "scored"),
    [
        (("anchor", "positive"), False),
        (("question", "answer", "negative"), False),
        (("Query", "passage", "neg_1", "neg_2"), False),
        (("sentence1", "sentence2", "score"), True),
        (("sentence_A", "sentence_B", "label"), True),
    ],
)
def test_columns_are_known_by_their_usual_names(names, scored, tmp_path, tiny):
    row = {name: f"{k} text" for k, name in enumerate(names)}
    if scored:
        row[names[2]] = 0.5
    loss = CoSENT() if scored else Ranking()
    run = run_of(tmp_path, tiny, [row], loss=loss)
    assert [f.column for f in run.data.prepare.fields] == list(names)
    task, source, _ = made(run)
    assert task.num_negatives == (0 if scored else len(names) - 2)
    assert source[0]["score"] == (0.5 if scored else 1.0)


def test_columns_that_are_not_there_are_named(tmp_path, tiny):
    with pytest.raises(ValueError, match="columns 'a', 'b'; name it in data.prepare.f"):
        run_of(tmp_path, tiny, [{"a": "x", "b": "y"}])
    with pytest.raises(ValueError, match=r"as the field 'score'"):
        run_of(tmp_path, tiny, [{"anchor": "x", "positive": "y"}], loss=CoSENT())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"query": " "},
            r"record 3 of the split 'train' has an empty 'anchor', and 1 more",
        ),
        ({"positive": ""}, "record 3 .* has an empty 'positive'"),
        ({"positive": "a red car "}, "the same text as 'anchor' and 'positive', and 1"),
        ({"negatives": ["cars"]}, "record 3 .* a negative that is the 'positive' its"),
        ({"negatives": ["", "b"]}, "record 3 .* has an empty negative"),
    ],
)
def test_rows_that_teach_nothing_are_refused_or_counted(
    row, message, tmp_path, tiny, capsys
):
    rows = [*ROWS, ROWS[0] | row, ROWS[0] | row]
    with pytest.raises(ValueError, match=message):
        made(run_of(tmp_path, tiny, rows))
    run = run_of(tmp_path, tiny, rows, faulty="drop")
    _, source, _ = made(run)
    said = capsys.readouterr().err
    if "negatives" in row:
        assert len(source) == 5 and "2 negatives left out" in said
        assert len(source[3]["negatives"]) == len(row["negatives"]) - 1
    else:
        assert len(source) == 3 and "2 rows left out" in said


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("high", "the column 'score' is str 'high' and no number"),
        (float("nan"), "no finite number"),
        (4.0, "record 0 .* has a 'score' beyond task.max_score=1"),
        (None, "the column 'score' is nothing and no number"),
    ],
)
def test_scores_that_cannot_be_are_named(score, message, tmp_path, tiny):
    row = {"sentence1": "a", "sentence2": "b", "score": score}
    with pytest.raises(ValueError, match=message):
        made(run_of(tmp_path, tiny, [row], loss=CosineRegression()))
    if score == 4.0:
        run = run_of(tmp_path, tiny, [row], loss=CosineRegression(), max_score=5.0)
        assert made(run)[1][0]["score"] == 0.8


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (
            "task",
            {"truncations": (Truncation(64),)},
            "size 64, and a vector of this mod",
        ),
        ("task", {"max_query": 2}, "leave no room for a text beside 2 special tokens"),
        (
            "data",
            {"batch_size": 1},
            "task.loss.kind='ranking' compares the rows of a b",
        ),
        ("data", {"packing": "concat"}, "needs data.packing='pad'"),
        ("loss", {"z_loss": 0.1}, "loss.z_loss=0.1 is a term of a cross entropy"),
    ],
)
def test_runs_that_do_not_fit_are_refused(part, fields, message, tiny):
    run = of_config(tiny, negatives=0)
    run = dataclasses.replace(
        run, **{part: dataclasses.replace(getattr(run, part), **fields)}
    )
    with pytest.raises(ValueError, match=message):
        make_task(run, PlainVocabulary(38))
