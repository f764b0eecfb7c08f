"""Choices: how a row is read, its loss, labels by number and letter, and mistakes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import Bytes, DataConfig, LayoutConfig, MultipleChoice, RunConfig
from llmjax.data.batches.pipeline import Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.heads.choice import ChoiceScorer, prefix
from llmjax.tasks.labelled.multiple_choice import MultipleChoiceTask
from llmjax.tasks.registry import make_task
from llmjax.tasks.routing import Routed
from llmjax.tasks.task import Predictions

ROWS = [
    {"question": "It rains.", "choices": ["wet", "dry"], "label": "A"},
    {"question": "It burns.", "choices": ["cold", "mild", "hot"], "label": "C"},
    {"question": "x" * 40, "choices": ["y" * 30, "n"], "label": "B"},
]


def run_of(tmp_path, tiny, rows, **fields):
    file = tmp_path / "train.jsonl"
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
    task = MultipleChoice(**{"choices": 3} | fields)
    data = dataclasses.replace(data, prepare=whole)
    data = MultipleChoiceTask.with_columns(task, data, said=False)
    model = dataclasses.replace(
        tiny, architecture="encoder", vocab_size=512, token_types=2
    )
    return RunConfig(model, task, data)


@pytest.fixture
def bound(tmp_path, tiny):
    run = run_of(tmp_path, tiny, ROWS)
    corpus = prepare.prepare(run.data)
    return make_task(run, corpus.tokenizer), corpus


def batch_of(task, source):
    pipeline = Pipeline(
        source, task.features, task.run.data, task.length, declared=task.declared
    )
    return next(pipeline.evaluation())


def test_each_choice_is_a_pair_with_the_question(bound):
    task, corpus = bound
    source = task.source(corpus, "train")
    batch, decode = batch_of(task, source), corpus.tokenizer.decode
    assert batch["label"].tolist() == [0, 2, 1, 0]
    assert batch["valid"].tolist() == [1, 1, 1, 0]
    for k, row in enumerate(ROWS):
        for c in range(3):
            there = batch[prefix(c) + "segment_ids"][k] > 0
            tokens = batch[prefix(c) + "tokens"][k][there]
            types = batch[prefix(c) + "token_types"][k][there]
            if c >= len(row["choices"]):
                assert not there.any()
                continue
            asked, choice = (decode(tokens[types == t]) for t in (0, 1))
            assert row["choices"][c].startswith(choice) and choice
            assert row["question"].endswith(asked)  # its beginning is cut


def test_rows_are_asked_as_those_that_were_learned_from(bound):
    task, corpus = bound
    learned = batch_of(task, task.source(corpus, "train"))
    asked = batch_of(task, task.examples(task.questions(ROWS)))
    for name in learned.keys() - {"label"}:
        np.testing.assert_array_equal(asked[name], learned[name])


def test_the_loss_is_that_of_the_right_choice_among_those_there(bound):
    task, _ = bound
    scores = np.array([[1, 2, -np.inf], [0, 1, 3], [2, 0, -np.inf], [-np.inf] * 3])
    batch = {"label": jnp.array([0, 2, 1, 0]), "valid": jnp.array([1, 1, 1, 0])}
    total, count, metrics = task.score(Routed(jnp.array(scores, jnp.float32)), batch)
    z = [np.log(np.exp(row[np.isfinite(row)]).sum()) for row in scores[:3]]
    np.testing.assert_allclose(total, z[0] - 1 + z[1] - 3 + z[2] - 0, rtol=1e-5)
    assert count == 3 and metrics["accuracy"][0] == 1


@pytest.mark.usefixtures("quick_compile")
def test_scores_are_those_of_each_choice_alone(tiny, random_params):
    """Also where a choice is not there, and gradients stay finite."""
    cfg = dataclasses.replace(tiny, architecture="encoder", vocab_size=40)
    data = DataConfig(packing="pad", seq_len=16)
    run = RunConfig(cfg, MultipleChoice(choices=3), data)
    task = make_task(run, PlainVocabulary(40))
    batch = dict(task.example_batch(2))
    for name in ("tokens", "segment_ids", "positions"):
        batch[f"choice2_{name}"][1] = 0
    batch = jax.tree.map(jnp.asarray, batch)
    model = ChoiceScorer(cfg, LayoutConfig())
    params = random_params(model, batch)
    scores_BC = model.apply({"params": params}, batch)
    assert scores_BC.shape == (2, 3) and scores_BC[1, 2] == -jnp.inf
    for c in range(3):
        names = ("tokens", "segment_ids", "positions")
        one = {name: batch[prefix(c) + name] for name in names}
        alone = model.apply({"params": params}, one)[:, 0]
        np.testing.assert_allclose(scores_BC[:, c], alone, atol=1e-5)

    def loss(params):
        return task.score(task.outputs(model)({"params": params}, batch, None), batch)[
            0
        ]

    gradient = jax.grad(loss)(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))
    found = task.predict(model)({"params": params}, batch)
    assert found["probabilities"][1, 2] == 0 and found["choice"].shape == (2,)


def test_a_report_says_whether_places_are_preferred(bound):
    task, _ = bound
    values = {"choice": np.array([0, 0, 1])}
    parts = [Predictions(np.arange(3), values, {"label": np.array([0, 2, 1])})]
    report = task.report(parts)
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert (report["right"], report["chosen"]) == ([1, 1, 1], [2, 1, 0])
    assert "0.6667 on 3 questions" in task.describe(report)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"choices": ["a"]},
            "record 3 .* has 1 choices; accepted: 2 to task.cho",
        ),
        ({"choices": ["a"] * 4}, "record 3 .* has 4 choices"),
        (
            {"label": "D"},
            "record 3 .* 2 choices and the label 'D'; accepted: the nu",
        ),
        ({"label": "C"}, "record 3 .* 2 choices and the label 'C'"),
        ({"label": None}, "record 3 .* has no label; take it out"),
    ],
)
def test_rows_that_cannot_be_are_named(row, message, tmp_path, tiny):
    run = run_of(tmp_path, tiny, [*ROWS, ROWS[0] | row])
    corpus = prepare.prepare(run.data)
    with pytest.raises(ValueError, match=message):
        make_task(run, corpus.tokenizer).source(corpus, "train")


def test_labels_are_numbers_too(tmp_path, tiny):
    rows = [row | {"label": k} for row, k in zip(ROWS, (0, 2, 1), strict=True)]
    run = run_of(tmp_path, tiny, rows)
    corpus = prepare.prepare(run.data)
    source = make_task(run, corpus.tokenizer).source(corpus, "train")
    assert [source[k]["label"] for k in range(3)] == [0, 2, 1]


def test_what_is_cut_is_counted(bound):
    task, corpus = bound
    assert task.source(corpus, "train").cut == 1
    assert task.examples(task.questions(ROWS)).cut == 1


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("model", {"token_types": 1}, "by 2 token types, and model.token_types=1"),
        ("data", {"seq_len": 4}, "data.seq_len=4 leaves no room for two texts"),
        ("loss", {"label_smoothing": 0.1}, "loss.label_smoothing=0.1 is a term"),
    ],
)
def test_runs_that_do_not_fit_are_refused(part, fields, message, bound):
    task, corpus = bound
    own = dataclasses.replace(getattr(task.run, part), **fields)
    with pytest.raises(ValueError, match=message):
        make_task(dataclasses.replace(task.run, **{part: own}), corpus.tokenizer)
