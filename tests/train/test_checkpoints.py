"""What a checkpoint gives back, and what is said of one that cannot be read."""

import json
import pickle
import re
import shutil

import jax
import numpy as np
import pytest

from llmjax.config import to_dict
from llmjax.train.checkpoints.checkpoints import Checkpoints, load_params
from llmjax.train.optimizers import optimizers
from tests.train import toy


@pytest.fixture
def copy(whole, tmp_path):
    """The uninterrupted run's workdir, to be damaged."""
    shutil.copytree(whole.workdir, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch):
    """Nothing here may be written or read by pickle."""

    def refuse(*_, **__):
        raise AssertionError("pickle is used")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def test_what_was_saved_comes_back(whole, program):
    checkpoints = Checkpoints(whole.workdir)
    assert checkpoints.latest_step == 10
    toy.assert_same_bits(checkpoints.restore(program.restorable()), whole.state)
    assert checkpoints.run_config() == program.config


def test_saving_uses_no_pickle_either(whole, program, tmp_path):
    checkpoints = Checkpoints(tmp_path, program.config)
    checkpoints.save(whole.state, {"loss": 1.0})
    checkpoints.close()
    found = Checkpoints(tmp_path).restore(program.restorable())
    toy.assert_same_bits(found, whole.state)


def test_weights_alone_are_the_averaged_ones(whole, program):
    config, params = load_params(whole.workdir, 10)
    average = optimizers.averaged(whole.state.opt_state, whole.state.params)
    toy.assert_same_bits(params, average)
    assert config == program.config


def test_the_run_is_told_beside_the_state(whole, program):
    files = list((whole.workdir / "checkpoints" / "10" / "run").rglob("*"))
    (text,) = (
        f.read_text() for f in files if f.is_file() and "format" in f.read_text()
    )
    run = json.loads(text)
    assert run["format"] == 2
    assert run["config"] == to_dict(program.config)


def files_of(step):
    return sorted(f for f in step.rglob("*") if f.is_file())


def truncate_largest(step):
    largest = max(files_of(step / "state"), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def delete_data(step):
    for file in files_of(step / "state"):
        if file.parent.name == "d":
            file.unlink()


def delete_metadata(step):
    for file in step.rglob("_METADATA"):
        file.unlink()


def delete_state(step):
    shutil.rmtree(step / "state")


def delete_run(step):
    shutil.rmtree(step / "run")


def halve_run(step):
    for file in files_of(step / "run"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def foreign(step):
    shutil.rmtree(step)
    step.mkdir()
    (step / "pytorch_model.bin").write_bytes(b"not ours")


@pytest.mark.parametrize(
    "damage",
    [
        truncate_largest,
        delete_data,
        delete_metadata,
        delete_state,
        delete_run,
        halve_run,
        foreign,
    ],
)
def test_a_damaged_checkpoint_is_named(damage, copy, program):
    step = copy / "checkpoints" / "10"
    damage(step)
    with pytest.raises(ValueError, match=re.escape(str(step))) as e:
        Checkpoints(copy).restore(program.restorable())
    assert "truncated or foreign; move that folder away" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        MemoryError(),
        ValueError("PERMISSION_DENIED: Error opening local file"),
        ValueError("RESOURCE_EXHAUSTED: out of memory"),
        KeyError("a bug of ours"),
        TypeError("another"),
    ],
    ids=repr,
)
def test_other_errors_pass_as_they_are(error, whole, program, monkeypatch):
    """A disk, a permission, memory or a bug say nothing about the checkpoint."""

    def fail(*_, **__):
        raise error

    checkpoints = Checkpoints(whole.workdir)
    monkeypatch.setattr(checkpoints.manager, "restore", fail)
    with pytest.raises(type(error)) as e:
        checkpoints.restore(program.restorable())
    assert e.value is error


def test_once_it_is_moved_away_the_one_before_is_read(whole, program, tmp_path):
    checkpoints = Checkpoints(tmp_path, program.config)
    for step, loss in ((8, 1.0), (10, 2.0)):
        checkpoints.save(whole.state.replace(step=np.int32(step)), {"loss": loss})
    checkpoints.close()
    folder = tmp_path / "checkpoints"
    truncate_largest(folder / "10")
    with pytest.raises(ValueError, match="move that folder away"):
        Checkpoints(tmp_path).restore(program.restorable())
    (folder / "10").rename(tmp_path / "moved")
    assert int(Checkpoints(tmp_path).restore(program.restorable()).step) == 8


def test_another_format_is_named(copy, program):
    for file in files_of(copy / "checkpoints" / "10" / "run"):
        file.write_text(file.read_text().replace('"format":2', '"format":99'))
        file.write_text(file.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(ValueError, match="format 99; this version reads 2"):
        Checkpoints(copy).restore(program.restorable())


def with_leaf(tree, path, leaf):
    """A copy of nested dicts with one leaf replaced, added or (None) removed."""
    key, *rest = path
    out = dict(tree)
    if rest:
        out[key] = with_leaf(out.get(key, {}), rest, leaf)
    elif leaf is None:
        del out[key]
    else:
        out[key] = leaf
    return out


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        (("final_norm", "scale"), None, r"has params/\S+/final_norm/scale \(16,\), wh"),
        (("final_norm", "bias"), (16,), r"lacks params/\S+/final_norm/bias \(16,\)"),
        (
            ("final_norm", "scale"),
            (9,),
            r"has params/\S+/scale \(16,\); .*this run has \(9,\)",
        ),
    ],
    ids=["left over", "missing", "mis-shaped"],
)
def test_a_leaf_that_does_not_fit_is_named(path, shape, message, whole, program):
    wanted = program.restorable()
    sharding = wanted.step.sharding
    leaf = shape and jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
    params = with_leaf(wanted.params, ("transformer", "stack", *path), leaf)
    with pytest.raises(ValueError, match=message) as e:
        Checkpoints(whole.workdir).restore(wanted.replace(params=params))
    assert "use the config that it was saved with" in str(e.value)


def test_no_run_and_no_such_step(whole, program, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoints does not exist; give"):
        load_params(tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; it has \[.*10\]"):
        load_params(whole.workdir, 3)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="has no checkpoint"):
        load_params(tmp_path)
