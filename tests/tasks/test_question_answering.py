"""Answers in texts: windows, the best spans, SQuAD's counts, and a file of its form."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    Bytes,
    DataConfig,
    LayoutConfig,
    QuestionAnswering,
    RunConfig,
)
from llmjax.data.batches.answer_windows import AnswerWindows, Asked, Listed
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.files import reading_json
from llmjax.data.prepare import labelled, prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.heads.span import SpanFinder
from llmjax.tasks.labelled import spans, squad
from llmjax.tasks.labelled.question_answering import QuestionAnsweringTask
from llmjax.tasks.registry import make_task
from llmjax.tasks.routing import Routed
from llmjax.tasks.task import Predictions

# --- what SQuAD's scripts count ------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right", "exact", "overlap"),
    [
        ("The cat", ["a cat."], 1, 1),
        ("a big cat!", ["big cats", "dog"], 0, 0.5),
        ("two two words", ["two words"], 0, 0.8),
        ("Broncos", ["Denver Broncos", "the Broncos"], 1, 1),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", [""], 1, 1),  # of articles alone nothing is left
    ],
)
def test_answers_count_as_in_squad(answer, right, exact, overlap):
    """By hand, after the rules of `evaluate-v2.0.py`."""
    assert squad.scores(answer, right) == (exact, pytest.approx(overlap))


def test_a_report_tells_questions_without_an_answer_apart():
    rows = [("cat", ["cat"]), ("dog", ["cat"]), ("", []), ("cat", [])]
    report = squad.report(rows)
    assert report["exact_match"] == 0.5 and report["questions"] == 4
    assert report["answered"] == {"exact_match": 0.5, "f1": 0.5, "questions": 2}
    assert report["unanswered"] == {"exact_match": 0.5, "f1": 0.5, "questions": 2}
    assert "answered" not in squad.report(rows[:2])


# --- windows -------------------------------------------------------------------------


def asked(question, tokens, *answers):
    """A question about a text whose tokens are letters."""
    text = "".join(chr(97 + k % 26) for k in range(tokens))
    places = np.arange(tokens)[:, None] + [0, 1]
    right = np.array(answers, np.int64).reshape(-1, 2)
    ids = np.arange(3, 3 + tokens, dtype=np.int32)
    return Asked(np.full(question, 9, np.int32), text, ids, places, right)


def test_long_texts_are_read_in_windows_that_share_a_stride():
    questions = Listed([asked(2, 25, (0, 2), (23, 25)), asked(9, 4), asked(3, 0)])
    windows = AnswerWindows(questions, length=12, stride=4, max_question=5)
    read = [windows[k] for k in range(len(windows))]
    assert windows.owners.tolist() == [0, 0, 0, 0, 1]
    assert windows.starts.tolist() == [0, 6, 12, 18, 0]
    assert [len(r["context"]) for r in read] == [10, 10, 10, 7, 4]
    assert windows.lengths.tolist() == [12, 12, 12, 9, 9]
    assert len(read[4]["question"]) == 5
    answers = [r["answer"].tolist() for r in read]
    assert answers == [[0, 1], [-1, -1], [-1, -1], [5, 6], [-1, -1]]
    for k, window in enumerate(read):  # the tokens that it says
        start = windows.starts[k]
        ids = questions[int(windows.owners[k])].ids
        assert (window["context"] == ids[start:][: len(window["context"])]).all()


def test_every_token_is_fresh_in_the_window_that_shows_most_around_it():
    windows = AnswerWindows(Listed([asked(2, 25)]), 12, 4, 5)
    count = np.zeros(25, int)
    for k in range(4):
        window, start = windows[k], windows.starts[k]
        count[start : start + len(window["context"])] += window["fresh"]
    assert (count == 1).all()
    assert windows[1]["fresh"].tolist() == [False] * 2 + [True] * 6 + [False] * 2


def test_a_row_without_room_beside_a_question_is_an_error():
    with pytest.raises(ValueError, match=r"5 tokens leaves 3 .*task.stride"):
        AnswerWindows(Listed([asked(9, 4)]), length=8, stride=4, max_question=5)


# --- the best spans ------------------------------------------------------------------


def test_the_best_spans_are_those_of_a_search_through_all():
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(2, 3, 9)).astype(np.float32)
    first[:, :2] = last[:, :2] = -np.inf  # of the question
    found = jax.jit(spans.best, static_argnums=(2, 3))(first, last, 4, 5)
    for b in range(3):
        pairs = itertools.product(range(9), repeat=2)
        allowed = [(i, j) for i, j in pairs if i <= j < i + 4]
        ranked = sorted(allowed, key=lambda p, b=b: -(first[b, p[0]] + last[b, p[1]]))
        got = [*zip(found.first[b].tolist(), found.last[b].tolist(), strict=True)]
        assert got == ranked[:5]
        sums = [first[b, i] + last[b, j] for i, j in got]
        np.testing.assert_allclose(found.score[b], sums, rtol=1e-6)


def row(none, *found):
    first, last, score = zip(*found, strict=True)
    return {"first": first, "last": last, "score": score, "none": none}


def test_an_answer_is_the_best_of_all_windows():
    question = Asked(
        np.zeros(1, np.int32),
        "to be or not",
        np.arange(4, dtype=np.int32),
        np.array([[0, 2], [2, 5], [5, 8], [8, 12]]),  # a space is of the word behind
        np.zeros((0, 2), np.int64),
    )
    windows = [
        (0, row(3.0, (0, 1, 2.0), (1, 1, 1.0))),
        (1, row(1.0, (0, 1, 2.5), (0, 0, 0.5), (0, 0, -np.inf))),
    ]
    answer = spans.answer(question, windows, 20, None)
    assert (answer["answer"], answer["start"], answer["stop"]) == ("be or", 3, 8)
    assert [a["answer"] for a in answer["n_best"]] == ["be or", "to be", "be"]
    weights = np.exp([2.5, 2.0, 1.0])
    shares = [a["probability"] for a in answer["n_best"]]
    np.testing.assert_allclose(shares, weights / weights.sum(), rtol=1e-6)
    # "none" scores least in the second window
    some = spans.answer(question, windows, 20, threshold=0.0)
    assert some["answer"] == "be or" and some["none"] == -1.5
    nothing = spans.answer(question, windows, 20, threshold=-2.0)
    assert (nothing["answer"], nothing["start"]) == ("", None)
    assert spans.answer(question, [], 20, 0.0)["answer"] == ""
    assert spans.answer(question, [], 20, None)["probability"] == 1.0


# --- the task ------------------------------------------------------------------------


def squad_file(folder, **changes):
    qas = [
        {"id": "1", "question": "Who?", "answers": [answer("Ann", 0)]},
        {"id": "2", "question": "What?", "answers": [answer("a cat", 8)]},
        {"id": "3", "question": "Where?", "answers": []},
    ]
    text = "Ann has a cat that sleeps all day on the roof of the house."
    paragraph = {"context": text, "qas": qas}
    article = {"title": "Pets", "paragraphs": [paragraph]} | changes
    file = folder / "train.json"
    file.write_text(json.dumps({"version": "2.0", "data": [article]}))
    return file


def answer(text, start):
    return {"text": text, "answer_start": start}


@pytest.fixture
def bound(tmp_path, tiny):
    """A task on a file of SQuAD's form, and its corpus."""
    data = DataConfig(
        source=str(squad_file(tmp_path)),
        directory=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        seq_len=40,
        batch_size=4,
        packing="pad",
    )
    data = dataclasses.replace(
        data, prepare=dataclasses.replace(data.prepare, validation=0.0, test=0.0)
    )
    config = QuestionAnswering(stride=8, max_question=8, no_answer=True, n_best=5)
    data = QuestionAnsweringTask.with_columns(config, data, said=False)
    model = dataclasses.replace(
        tiny, architecture="encoder", vocab_size=512, token_types=2
    )
    corpus = prepare.prepare(data)
    return make_task(RunConfig(model, config, data), corpus.tokenizer), corpus


def test_a_file_of_squad_s_form_is_read(bound):
    task, corpus = bound
    source = task.source(corpus, "train")
    batch = Pipeline(
        source, task.features, task.run.data, task.length, declared=task.declared
    ).batch(0)
    assert {*batch} >= {"tokens", "token_types", "context", "answer", "window"}
    decode = corpus.tokenizer.decode
    for k in range(len(source)):
        features = task.features(source[k], np.random.default_rng(0))
        first, last = features["answer"]
        asked = source.questions[int(source.owners[k])]
        if source[k]["answer"][0] < 0:
            assert (first, last) == (0, 0)
            continue
        text = decode(features["tokens"][first : last + 1])
        right = [asked.text[a:b] for a, b in asked.answers]
        assert text.strip() in right
        assert (features["context"][first : last + 1] > 0).all()


def test_perfect_predictions_are_counted_perfect(bound):
    task, corpus = bound
    source = task.source(corpus, "train")
    n = len(source)
    answers = np.array([source[k]["answer"] for k in range(n)])
    there = answers[:, 0] >= 0
    score = np.where(there, 5.0, -5.0)[:, None]
    values = {
        "first": np.maximum(answers[:, :1], 0),
        "last": np.maximum(answers[:, 1:], 0),
        "score": score,
        "none": np.where(there, -1.0, 4.0),
    }
    order = np.random.default_rng(0).permutation(n)  # however they come
    parts = [
        Predictions(k, {m: v[k] for m, v in values.items()}, {"window": k})
        for k in np.array_split(order, 2)
    ]
    report = task.report(parts, (source,))
    assert report["exact_match"] == report["f1"] == 1.0
    assert report["answered"]["questions"] == 2
    assert "exact match 1.000" in task.describe(report)
    assert task.report(parts, ()) == {}
    # half the windows: of the questions that were asked
    few = task.report([Predictions(order, values, {"window": np.arange(n)})], (source,))
    assert few["questions"] == 3


def test_rows_without_answers_are_asked_as_those_that_were_learned_from(bound):
    task, corpus = bound
    learned = task.source(corpus, "train")
    record = corpus.records("train")[0]
    rows = [{"question": record["question"].text, "context": record["context"].text}]
    source = task.examples(task.questions(rows))
    for name in ("question", "context", "fresh"):
        assert (source[0][name] == learned[0][name]).all()
    values = {
        "first": np.zeros((len(source), 1), int),
        "last": np.full((len(source), 1), 2),
        "score": np.linspace(1, 0, len(source))[:, None],
        "none": np.full(len(source), -9.0),
    }
    (answer,) = task.answers(source, task.decode(values, None))
    assert answer["answer"] == "Ann" and answer["start"] == 0


def test_the_loss_is_that_of_both_ends(bound):
    task, _ = bound
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 6, 2)).astype(np.float32)
    batch = {
        "answer": jnp.array([[1, 3], [0, 0]]),
        "segment_ids": jnp.array([[1] * 6, [1] * 4 + [0] * 2]),
        "valid": jnp.array([1, 1]),
    }
    total, count, metrics = task.score(Routed(jnp.array(scores)), batch)
    expected = 0.0
    for row, ends, n in ((0, (1, 3), 6), (1, (0, 0), 4)):
        for c, place in enumerate(ends):
            x = scores[row, :n, c]
            expected += (np.log(np.exp(x).sum()) - x[place]) / 2
    assert count == 2
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_a_model_predicts_spans_of_the_context(architecture, tiny, random_params):
    cfg = dataclasses.replace(tiny, architecture=architecture, vocab_size=40)
    data = DataConfig(packing="pad", seq_len=24)
    config = QuestionAnswering(stride=2, max_question=4, max_answer=3, n_best=4)
    task = make_task(RunConfig(cfg, config, data), PlainVocabulary(40))
    batch = jax.tree.map(jnp.asarray, task.example_batch(2))
    model = SpanFinder(cfg, LayoutConfig())
    variables = {"params": random_params(model, batch)}
    found = jax.jit(task.predict(model))(variables, batch)
    assert found["first"].shape == (2, 4) and found["none"].shape == (2,)
    size = (batch["context"] > 0).sum(axis=1)[:, None]
    assert (found["first"] >= 0).all() and (found["last"] < size).all()
    assert (found["last"] - found["first"] < 3).all()
    grad = jax.grad(
        lambda params: task.score(
            task.outputs(model)({"params": params}, batch, None), batch
        )[0]
    )(variables["params"])
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grad))


# --- mistakes ------------------------------------------------------------------------


def test_questions_without_an_answer_must_be_meant(bound):
    task, corpus = bound
    config = dataclasses.replace(task.config, no_answer=False)
    run = dataclasses.replace(task.run, task=config)
    with pytest.raises(ValueError, match=r"1 of the 3 .* record 2; set task"):
        make_task(run, corpus.tokenizer).source(corpus, "train")


def test_an_answer_that_is_not_at_its_place_names_its_question(tmp_path, bound):
    paragraph = {"context": "Ann sleeps.", "qas": [{"id": "7", "question": "Who?"}]}
    paragraph["qas"][0]["answers"] = [answer("Bob", 0)]
    data = dataclasses.replace(
        bound[0].run.data, source=str(squad_file(tmp_path, paragraphs=[paragraph]))
    )
    with pytest.raises(ValueError, match=r"question '7'.*'Bob' at the character 0"):
        prepare.prepare(data)


def test_columns_are_recognised_or_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"query": "a", "passage": "b", "answer": []}))
    data = DataConfig(source=str(file))
    fields = labelled.with_answers(
        data, "question", "context", "answers", said=False
    ).prepare.fields
    assert [f.column for f in fields] == ["query", "passage", "answer"]
    file.write_text(json.dumps({"query": "a", "answer": []}))
    with pytest.raises(ValueError, match=r"name that of the context in data\.prepare"):
        labelled.with_answers(data, "question", "context", "answers", said=False)


def test_json_that_only_looks_like_squad_s_stays_as_it_is():
    for value in (
        {"data": [1]},
        {"data": [{"paragraphs": [1]}]},
        {"data": "x"},
        {"data": []},
    ):
        assert [*reading_json.squad_rows(value)] == [("", value)]
