"""The log, the result, what is kept; the host does not wait; profiles and writers."""

import dataclasses
import itertools
import math
import os
import signal

import jax
import pytest

from llmjax.train import loop
from llmjax.train.checkpoints.best import Best
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.metrics import writers
from llmjax.train.metrics.evaluation import evaluate
from llmjax.train.optimizers import optimizers
from tests.train import toy


def fit(program, train, held_out, workdir, **options):
    return loop.fit(program, train, held_out, workdir, progress=False, **options)


def test_the_log(whole):
    rows = writers.read(whole.workdir)
    trained = [r for r in rows if "train/loss" in r]
    evaluated = [r for r in rows if "eval/loss" in r]
    assert [r["step"] for r in trained] == list(range(1, 11))
    assert [r["step"] for r in evaluated] == [0, 4, 8, 10]
    assert trained[-1]["train/loss"] < trained[0]["train/loss"]
    assert evaluated[-1]["eval/bits_per_byte"] < evaluated[0]["eval/bits_per_byte"]
    assert trained[1]["train/learning_rate"] == pytest.approx(1e-2)
    groups = {k for k in trained[0] if k.startswith("train/grad_norm/")}
    assert {"train/grad_norm/stack/mlp", "train/grad_norm/stack/attention"} < groups
    squares = sum(trained[0][k] ** 2 for k in groups)
    assert squares == pytest.approx(trained[0]["train/grad_norm"] ** 2, rel=1e-5)
    assert all(trained[0][k.replace("grad", "param")] > 0 for k in groups)


def test_the_result(whole):
    size = sum(x.size for x in jax.tree.leaves(whole.state.params))
    result = whole.result
    assert (result["step"], result["finished"]) == (10, True)
    assert result["parameters"] == size
    last = writers.read(whole.workdir)[-1]
    assert result["eval"] == {
        k.removeprefix("eval/"): v for k, v in last.items() if k != "step"
    }
    assert result["tokens_per_second"] > 0 and result["peak_memory_bytes"] > 2**20


def test_evaluation_is_of_the_averaged_weights(whole, program, held_out):
    state = whole.state
    average = optimizers.averaged(state.opt_state, state.params)
    assert evaluate(program, average, held_out) == whole.result["eval"]
    assert evaluate(program, state.params, held_out) != whole.result["eval"]


def test_the_best_and_the_latest_are_kept(program, train, held_out, tmp_path):
    """By a run that was ended in the middle, too."""
    losses = iter([9, 3, 1, 2, 5, 4])

    def scored(*_):
        return {"loss": (float(next(losses)), 1.0)}

    often = {"eval_every": 2, "checkpoint_every": 2, "keep_best": 2, "eval_batches": 1}
    config = toy.change(program.config, train=often)
    judged = dataclasses.replace(program, config=config, evaluate=scored)

    def end():
        os.kill(os.getpid(), signal.SIGTERM)

    fit(judged, toy.Interrupted(train, 5, end), held_out, tmp_path)
    fit(judged, train, held_out, tmp_path)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 6, 10]
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.best_step, checkpoints.latest_step) == (4, 10)


def judged(program, values, metric="accuracy", **train):
    """`program` whose evaluations give `values` in turn."""
    values = iter(values)

    def scored(*_):
        return {"loss": (1.0, 1.0), metric: (float(next(values)), 1.0)}

    fields = {"eval_every": 1, "checkpoint_every": 1, "eval_batches": 1, **train}
    config = toy.change(program.config, train={"best_metric": metric, **fields})
    return dataclasses.replace(program, config=config, evaluate=scored)


def test_the_best_by_accuracy_is_the_largest(program, train, held_out, tmp_path):
    values = [0, 2, 5, 3, 4, 1, 1, 1, 1, 1, 1]
    fit(judged(program, values, best_mode="max"), train, held_out, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.best_step, checkpoints.latest_step) == (2, 10)


def test_the_best_by_a_metric_of_the_report(program, train, held_out, tmp_path):
    """One that is no sum over examples is of the predictions for all of them."""
    values = iter([0, 2, 5, 3, 4, 1, 1, 1, 1, 1, 1])

    class Reporting(type(program.task)):
        labels = ("targets",)

        def report(self, predictions, sources=()):
            rows = sum(len(part.ids) for part in predictions)
            return {"rank": float(next(values)), "rows": rows, "names": ["a"]}

    judging = judged(program, [0] * 11, best_mode="max")
    config = toy.change(judging.config, train={"best_metric": "rank"})
    task = Reporting(program.task.run, program.task.vocabulary)
    judging = dataclasses.replace(judging, config=config, task=task)
    fit(judging, train, held_out, tmp_path)
    assert Checkpoints(tmp_path).best_step == 2
    row = writers.read(tmp_path)[-1]
    assert row["eval/rank"] == 1 and "eval/rows" not in row


@pytest.mark.parametrize("step", [None, 1, 3])
def test_a_run_ends_when_patience_does(
    step, program, train, held_out, tmp_path, capsys
):
    """Interrupted or not: 3 evaluations after step 2 are no better than its."""
    values, fields = [0, 2, 5, 3, 4, 4, 9], {"best_mode": "max", "patience": 3}

    def end():
        os.kill(os.getpid(), signal.SIGTERM)

    if step is not None:
        ended = toy.Interrupted(train, step, end)
        fit(judged(program, values, **fields), ended, held_out, tmp_path)
        values = values[step + 2 :]
    _, result = fit(judged(program, values, **fields), train, held_out, tmp_path)
    assert (result["step"], result["finished"], result["stopped_early"]) == (5, 1, 1)
    assert "accuracy than 5 of step 2" in capsys.readouterr().out
    assert Checkpoints(tmp_path).best_step == 2
    _, again = fit(judged(program, [], **fields), train, held_out, tmp_path)
    assert (again["step"], again["stopped_early"]) == (5, True)
    more = judged(program, [1] * 9, **fields | {"patience": 5})
    _, result = fit(more, train, held_out, tmp_path)
    assert (result["step"], result["stopped_early"]) == (7, True)


def test_patience_without_an_evaluation_is_refused(program, train, tmp_path):
    with pytest.raises(ValueError, match=r"train.patience' is 2 and nothing is eval"):
        fit(judged(program, [], patience=2), train, None, tmp_path)


def test_a_value_that_is_not_a_number_is_never_better():
    config = dataclasses.replace(toy.CONFIG.train, best_mode="max", patience=2)
    best = Best()
    told = Best(0.7312345678, 1500, 2).report(2100, config)
    assert told.startswith("stopped at step 2,100 of ")
    assert (
        "2 evaluations in a row without a better loss than 0.7312 of step 1,5" in told
    )
    assert "without a loss that is a number (" in Best(None, 0, 2).report(9, config)
    for step, value in enumerate([math.nan, 1.0, math.nan, 1.0]):
        best = best.after(step, value, config)
    assert best == Best(1.0, 1, 2)
    assert best.exhausted(config)


def test_an_unknown_best_metric_is_named(program, train, held_out, tmp_path):
    config = toy.change(program.config, train={"best_metric": "acuracy"})
    wrong = dataclasses.replace(program, config=config)
    with pytest.raises(ValueError, match=r"best_metric.*acuracy.*bits_per_byte"):
        fit(wrong, train, held_out, tmp_path)


@pytest.mark.parametrize("traced", [(2, 3), (8, 12)])
def test_a_profile_is_written(traced, program, train, tmp_path):
    """Also where it ends after the run does."""
    fit(program, train, None, tmp_path, profile=traced)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_every_writer_and_the_bar(program, train, tmp_path, capsys):
    config = toy.change(
        program.config, train={"steps": 2, "writers": ("jsonl", "tensorboard")}
    )
    loop.fit(dataclasses.replace(program, config=config), train, None, tmp_path)
    assert list((tmp_path / "tensorboard").iterdir())
    bar = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert all(word in bar for word in ("2/2", "loss", "tokens/s"))


def test_nothing_waits_for_the_step_under_way(program, train, tmp_path):
    """The host asks for a step's metrics only when the next one has been started."""
    events = []

    class Number:
        def __init__(self, step):
            self.step = step

        def __float__(self):
            events.append(("read", self.step))
            return 1.0

    numbers = itertools.count(1)

    def step(state, batch):
        state, _ = program.step(state, batch)
        n = next(numbers)
        events.append(("start", n))
        return state, ({"loss": (Number(n), 1.0)}, {"grad_norm": 1.0})

    config = toy.change(program.config, train={"steps": 3, "checkpoint_every": 9})
    quiet = dataclasses.replace(program, config=config, step=step)
    fit(quiet, train, None, tmp_path)
    order = [("start", 1), ("start", 2), ("read", 1), ("start", 3), ("read", 2)]
    assert events == [*order, ("read", 3)]
