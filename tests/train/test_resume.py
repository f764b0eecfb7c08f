"""What may change when a run goes on, and another run's weights as a beginning."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from etils import epath

from llmjax import hub
from llmjax.config import (
    Checkpoint,
    Constant,
    FullRemat,
    Linear,
    RMSNorm,
    Rotary,
    to_dict,
)
from llmjax.models.heads.language import LanguageModel
from llmjax.train import loop
from llmjax.train.checkpoints import resume
from llmjax.train.metrics import writers
from tests.train import toy


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"model": {"d_ff": 64}}, "model.d_ff=32"),
        ({"optimizer": {"learning_rate": 0.5}}, "optimizer.learning_rate=0.01"),
        ({"data": {"shuffle_seed": 7}}, "data.shuffle_seed=0"),
        ({"model": {"positions": Rotary(500.0)}}, "model.positions.theta=10000.0"),
        ({"train": {"steps": 9}}, "train.steps=10"),
    ],
)
def test_another_run_is_refused(parts, key, workdir):
    resume.save_or_check_config(toy.CONFIG, workdir, None)
    before = (workdir / "config.json").read_text()
    other = toy.change(toy.CONFIG, **parts)
    with pytest.raises(ValueError, match=f"run with {re.escape(key)} and this") as e:
        resume.save_or_check_config(other, workdir, to_dict(toy.CONFIG))
    assert "--workdir" in str(e.value)
    assert (workdir / "config.json").read_text() == before
    # before anything was saved there is nothing to go on from
    resume.save_or_check_config(other, workdir, None)
    assert json.loads((workdir / "config.json").read_text()) == to_dict(other)


def test_what_changes_neither_data_nor_updates_is_free(workdir):
    resume.save_or_check_config(toy.CONFIG, workdir, None)
    other = toy.change(
        toy.CONFIG,
        layout={"fsdp": 4, "data": 2, "remat": FullRemat(), "microbatches": 2},
        data={"directory": "/elsewhere", "prefetch": 9},
        train={"log_every": 3, "keep_best": 2, "writers": ()},
    )
    (workdir / "config.json").write_text("{")  # the checkpoint has it too
    resume.save_or_check_config(other, workdir, to_dict(toy.CONFIG))
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["layout"]["fsdp"] == 4


# --- more steps ----------------------------------------------------------------------


def test_more_steps_extend_a_finished_run_to_the_bit(noisy, train, held_out, tmp_path):
    """Under a constant rate, also one that was interrupted on the way."""
    optimizer = {"schedule": Constant(2), "ema": 0.8}
    whole, *parts = (
        toy.change(noisy, optimizer=optimizer, train={"steps": steps})
        for steps in (10, 4, 7, 10)
    )
    state, _ = fit(whole, train, held_out, tmp_path / "whole")
    for config in parts:
        extended, result = fit(config, train, held_out, tmp_path / "parts")
        assert result["finished"] and result["step"] == config.train.steps
    toy.assert_same_bits(extended, state)
    rows = [writers.read(tmp_path / name) for name in ("whole", "parts")]
    assert toy.untimed(trained(rows[0])) == toy.untimed(trained(rows[1]))


def fit(config, train, held_out, workdir):
    return loop.fit(toy.program(config), train, held_out, workdir, progress=False)


def trained(rows):
    return [row for row in rows if "train/loss" in row]


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (Constant(2), r"extended from 10 to 20 steps; its learning rate stays"),
        (
            Linear(2, 0.1),
            r"schedule 'linear' now ends at step 20, and the learning rate goes from "
            r"0\.00213 to 0\.006 at step 10; under .*'constant'",
        ),
    ],
)
def test_what_becomes_of_the_schedule_is_said(schedule, says, workdir, capsys):
    """Of 8 steps from 0.01 to 0.001 the seventh is done, of 18 the eighth follows."""
    before = toy.change(toy.CONFIG, optimizer={"schedule": schedule})
    longer = toy.change(before, train={"steps": 20})
    resume.save_or_check_config(longer, workdir, to_dict(before), 10)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 88
    assert re.search(says, " ".join(printed.split()))
    assert resume.save_or_check_config(before, workdir, to_dict(before), 10) is None
    assert not capsys.readouterr().out


@pytest.fixture(scope="module")
def tuning(noisy):
    """A classifier of the pretrained run's sizes, about to begin."""
    return toy.program(toy.classifier(noisy))


def test_weights_of_another_run(whole, tuning, noisy):
    state = jax.device_get(tuning.init())
    begun, text = resume.load_initial(
        state,
        tuning.shardings,
        tuning.axes,
        Checkpoint(str(whole.workdir), 10),
        tuning.config.model,
    )
    average = whole.state.opt_state[-1].average
    toy.assert_same_bits(begun.params["transformer"], average["transformer"])
    toy.assert_same_bits(begun.params["classifier"], state.params["classifier"])
    head, loaded, *more, created, left = text.splitlines()
    count = len(jax.tree.leaves(average["transformer"]))
    assert str(whole.workdir) in head
    assert loaded.startswith(f"  loaded {count}: transformer/embedder/table")
    assert all(line.startswith("    transformer/") for line in more)
    assert created == "  created 2: classifier/bias, classifier/kernel"
    assert left == "  left over 0: none"
    restarted = tuning.with_params(begun, begun.params)
    toy.assert_same_bits(restarted.opt_state[-1].average, begun.params)


def test_what_is_left_over_is_listed(whole, tuning):
    state = tuning.init()
    params = dict(state.params["transformer"])
    params["stack"] = {"group_0": params["stack"]["group_0"]}
    shardings = tuning.shardings.replace(
        params={
            "transformer": {
                **tuning.shardings.params["transformer"],
                "stack": {
                    "group_0": tuning.shardings.params["transformer"]["stack"][
                        "group_0"
                    ]
                },
            }
        }
    )
    fewer = state.replace(params={"transformer": params})
    init, model = Checkpoint(str(whole.workdir)), tuning.config.model
    _, text = resume.load_initial(fewer, shardings, tuning.axes, init, model)
    assert "left over 1: transformer/stack/final_norm/scale" in text


def test_weights_of_another_size_are_named(whole, noisy):
    wider = toy.change(toy.classifier(noisy), model={"d_ff": 48})
    abstract = toy.program(wider)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract.abstract)
    init = Checkpoint(str(whole.workdir))
    with pytest.raises(
        ValueError, match=r"mlp/\w+/kernel has shape \(2, .*model's is"
    ) as e:
        resume.load_initial(state, abstract.shardings, abstract.axes, init, wider.model)
    assert str(whole.workdir) in str(e.value)


def test_a_folder_with_a_damaged_config_is_named(tuning, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    state, init = tuning.init(), Checkpoint(str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}/config.json is damaged"):
        resume.load_initial(
            state, tuning.shardings, tuning.axes, init, tuning.config.model
        )


def test_no_name_in_common(whole, tuning):
    state = tuning.init()
    renamed = state.replace(params={"other": state.params["classifier"]})
    init = Checkpoint(str(whole.workdir))
    with pytest.raises(ValueError, match="none of its weights has a name"):
        model = tuning.config.model
        resume.load_initial(renamed, tuning.shardings, tuning.axes, init, model)


def test_weights_of_the_hub_with_more_rows(tuning, tmp_path, random_params):
    """A folder of the hub's format begins a classifier of a larger vocabulary."""
    cfg = dataclasses.replace(tuning.config.model, vocab_size=61)
    pretrained = LanguageModel(cfg)
    params = random_params(pretrained, {"tokens": np.zeros((1, 4), np.int32)})
    hub.save(pretrained, params, tmp_path / "llama")
    state, init = tuning.init(), Checkpoint(str(tmp_path / "llama"))
    begun, text = resume.load_initial(
        state, tuning.shardings, tuning.axes, init, tuning.config.model
    )
    table = np.asarray(begun.params["transformer"]["embedder"]["table"])
    old = np.asarray(params["transformer"]["embedder"]["table"])
    fresh = np.asarray(state.params["transformer"]["embedder"]["table"])
    np.testing.assert_array_equal(table, np.concatenate([old, fresh[-3:]]))
    toy.assert_same_bits(
        begun.params["transformer"]["stack"], params["transformer"]["stack"]
    )
    assert "loaded, with new rows 1: transformer/embedder/table" in text
    assert "created 2: classifier/bias, classifier/kernel" in text
    assert "theta" not in text
    other = dataclasses.replace(tuning.config.model, norm=RMSNorm(1e-3))
    _, text = resume.load_initial(state, tuning.shardings, tuning.axes, init, other)
    assert "model.norm.epsilon was 1e-06 and is 0.001" in text
