"""The search: its space, a planted optimum, pruning, failures, and going on."""

import json
import math
import os
import re

import pytest

from experiments.search import space, study
from experiments.search.space import Choice, Range
from experiments.search.study import Search, search
from llmjax import config as cfg
from llmjax.train.metrics.finite import NotFiniteError
from tests.experiments.forked import Mains

SPACE = {
    "optimizer.learning_rate": Range(1e-5, 1e-1, log=True),
    "model.num_layers": Range(1, 4),
    "optimizer.schedule.kind": Choice(("linear", "constant")),
}


def settings(folder, **fields):
    return Search(folder, SPACE, "loss", "min", **fields)


def planted(values, folder, watch):
    """The best is a rate of 1e-3, three layers, and "linear"."""
    off = abs(math.log10(values["optimizer.learning_rate"]) + 3)
    off += abs(values["model.num_layers"] - 3) / 3
    off += values["optimizer.schedule.kind"] == "constant"
    for step in (1, 2, 3):
        watch(step, {"loss": off + 1 / step})
    return off


def test_a_planted_optimum_is_found_and_worse_trials_end_early(tmp_path):
    seen = []

    def objective(values, folder, watch):
        seen.append(values)
        return planted(values, folder, watch)

    result = search(settings(tmp_path), 24, objective)
    best = result["best"]
    assert best["value"] < 0.6
    assert best["values"]["optimizer.schedule.kind"] == "linear"
    states = [row["state"] for row in result["trials"]]
    assert len(states) == 24 == len(seen) and set(states) == {"complete", "pruned"}
    pruned = [row for row in result["trials"] if row["state"] == "pruned"]
    assert all(row["evaluations"] < 3 and row["note"] for row in pruned)
    rates = [values["optimizer.learning_rate"] for values in seen]
    assert min(rates) >= 1e-5 and max(rates) <= 1e-1
    assert {type(values["model.num_layers"]) for values in seen} == {int}
    text = study.table(result)
    assert f"best: trial {best['number']}" in text
    assert text.count("| pruned |") == len(pruned)


def test_failures_are_named_and_others_follow(tmp_path, capsys):
    def objective(values, folder, watch):
        if folder.name == "0000":
            raise ValueError("config key 'x' is\nwrong; set it back")
        if folder.name == "0001":
            raise NotFiniteError("step 3: the loss is nan")
        return planted(values, folder, watch)

    result = search(settings(tmp_path, prune=False), 3, objective)
    rows = result["trials"]
    assert [row["state"] for row in rows] == ["fail", "fail", "complete"]
    assert rows[0]["note"] == "config key 'x' is wrong; set it back"
    assert "trial 1: fail (step 3: the loss is nan)" in capsys.readouterr().out
    assert result["best"]["number"] == 2


def test_a_search_without_a_whole_trial_says_so(tmp_path):
    def objective(values, folder, watch):
        raise OSError("the disk is full")

    text = study.table(search(settings(tmp_path), 1, objective))
    assert "the disk is full" in text and "no trial ran to its end" in text


def test_an_interrupted_trial_goes_on_in_its_folder(tmp_path):
    calls = []

    def objective(values, folder, watch):
        calls.append((folder.name, values))
        if len(calls) == 2:
            raise KeyboardInterrupt
        if len(calls) == 4:
            return None  # SIGTERM
        return planted(values, folder, watch)

    with pytest.raises(KeyboardInterrupt):
        search(settings(tmp_path, prune=False), 3, objective)
    stopped = search(settings(tmp_path, prune=False), 3, objective)
    assert not stopped["finished"]
    done = search(settings(tmp_path, prune=False), 3, objective)
    names = [name for name, _ in calls]
    assert names == ["0000", "0001", "0001", "0002", "0002"]
    assert calls[1][1] == calls[2][1] and calls[3][1] == calls[4][1]
    assert calls[0][1] != calls[1][1] != calls[3][1]
    assert done["finished"] and len(done["trials"]) == 3
    again = search(settings(tmp_path, prune=False), 3, objective)
    assert again == done and len(calls) == 5
    other = Search(tmp_path, {**SPACE, "model.dropout": Range(0.0, 0.1)}, "loss", "min")
    with pytest.raises(ValueError, match="holds a search with space"):
        search(other, 4, objective)


def test_larger_is_better_where_the_config_says_so(tmp_path):
    own = Search(tmp_path, SPACE, "accuracy", "max", prune=False)
    result = search(own, 3, lambda values, *_: values["optimizer.learning_rate"])
    assert result["best"]["value"] == max(row["value"] for row in result["trials"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "has no keys"),
        ({"optimizer.learning_rat": {"low": 1, "high": 2}}, "mean 'optimizer.learning"),
        ({"model.dropout": {"low": 0.2, "high": 0.1}}, "low is below high"),
        ({"model.dropout": {"low": 0, "high": 0.5, "log": True}}, "above 0 where log"),
        ({"model.dropout": {"low": 0.1, "high": 1.5}}, r"dropout=1.5: .*in \[0, 1\)"),
        ({"model.num_layers": {"low": 1.5, "high": 2}}, "layers=1.5: .*accepted: int"),
        ({"model.dropout": {"choices": [0.1]}}, "give two choices or more"),
        ({"model.dropout": {"choices": [[0.1], 0.2]}}, "accepted: a range"),
        ({"model.dropout": {"low": 0.1}}, "accepted: a range"),
        ({"model.dropout": {"low": 0.1, "high": 0.2, "lg": True}}, "accepted: a range"),
        ({"model.dropout": [0, 1]}, "accepted: a range"),
        ({"train.best_mode": {"choices": ["min", "max"]}}, "same for all trials"),
        ({"optimizer.schedule.kind": {"choices": ["linear", "x"]}}, "kind='x'"),
    ],
)
def test_a_space_that_the_config_refuses_is_named(values, says, tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=says):
        space.read(str(file), cfg.default())


def test_a_space_that_is_no_json_is_named(tmp_path):
    (tmp_path / "space.json").write_text("optimizer: 1")
    with pytest.raises(ValueError, match="space.json is no JSON"):
        space.read(str(tmp_path / "space.json"), cfg.default())


@pytest.mark.slow
def test_a_search_of_runs(tmp_path, monkeypatch):
    """Two trials, one of which the run refuses; then one more."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    words = ["red", "green", "blue", "tin", "oak", "lead"]
    rows = [f"{words[k % 6]} {words[k % 5]} {k},{'xy'[k % 6 > 2]}" for k in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    searched = {
        "craft.loss.kind": {"choices": ["plain", "r_drop"]},
        "optimizer.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    }
    (tmp_path / "space.json").write_text(json.dumps(searched))
    arguments = [
        "--config=configs/finetune/text_classification.py",
        "--config.init.kind=scratch",
        "--config.init.path=None",
        f"--config.data.source={tmp_path}/texts.csv",
        f"--config.data.directory={tmp_path}/cache",
        "--config.data.tokenizer.vocab_size=300",
        "--config.model.vocab_size=300",
        "--config.model.d_model=16",
        "--config.model.d_ff=32",
        "--config.model.num_layers=1",
        "--config.model.num_heads=2",
        "--config.data.seq_len=16",
        "--config.train.steps=4",
        "--config.train.eval_every=2",
        "--config.optimizer.schedule.warmup_steps=1",
        f"--space={tmp_path}/space.json",
        f"--workdir={tmp_path}/search",
        "--noprune",
    ]
    mains = Mains(tmp_path)
    try:
        done = mains.run("search", *arguments, "--trials=3")
        assert done.code == 0, done.err
        result = json.loads((tmp_path / "search" / "result.json").read_text())
        by_loss = {row["values"]["craft.loss.kind"]: row for row in result["trials"]}
        assert by_loss["plain"]["state"] == "complete"
        assert by_loss["r_drop"]["state"] == "fail"
        assert "compares two dropout masks" in by_loss["r_drop"]["note"]
        assert os.path.exists(f"{result['best']['folder']}/checkpoints")
        assert re.search(r"\| \d \| fail \|", done.out)
        wrong = mains.run("search", *arguments, "--trials=1", "--space=nothing.json")
        assert wrong.code == 2 and "nothing.json" in wrong.err
    finally:
        mains.close()
