"""What a checkpoint gives back, and what is said of one that cannot be read."""

import hashlib
import json
import pickle
import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from llmjax.config import to_dict
from llmjax.data.store import manifest
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.checkpoints.reading import load_params
from llmjax.train.optimizers import optimizers
from tests.train import toy


@pytest.fixture
def copy(whole, tmp_path):
    """The uninterrupted run's workdir, to be damaged."""
    shutil.copytree(whole.workdir, tmp_path / "run")
    return tmp_path / "run"


def unchecked(step):
    """Makes a checkpoint one of format 2, without checksums."""
    (step / "checksums.json").unlink()
    path = step / "run" / "metadata"
    run = json.loads(path.read_text())
    (step / "metrics").mkdir()
    (step / "metrics" / "metrics").write_text(json.dumps(run.pop("metrics")))
    path.write_text(json.dumps({**run, "format": 2}))


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


def test_saving_without_an_evaluation_warns_of_nothing(
    whole, program, tmp_path, caplog
):
    checkpoints = Checkpoints(tmp_path, program.config)
    checkpoints.save(whole.state)
    checkpoints.close()
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []


def test_weights_alone_are_the_averaged_ones(whole, program):
    config, params = load_params(whole.workdir, 10)
    average = optimizers.averaged(whole.state.opt_state, whole.state.params)
    toy.assert_same_bits(params, average)
    assert config == program.config


def test_the_run_is_told_beside_the_state(whole, program):
    run = json.loads((whole.workdir / "checkpoints/10/run/metadata").read_text())
    assert run["format"] == 3
    assert run["config"] == to_dict(program.config)
    assert run["metrics"] == whole.result["eval"]


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


def flip(path, bit=None):
    """Flips one bit of a file; by default in its middle."""
    data = bytearray(path.read_bytes())
    bit = 4 * len(data) if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def flip_largest(step):
    flip(max(files_of(step / "state"), key=lambda f: f.stat().st_size))


def flip_run(step):
    flip(step / "run" / "metadata")


def flip_checksums(step):
    flip(step / "checksums.json")


def delete_checksums(step):
    (step / "checksums.json").unlink()


DAMAGES = [
    truncate_largest,
    delete_data,
    delete_metadata,
    delete_state,
    delete_run,
    halve_run,
    foreign,
]
FLIPS = [flip_largest, flip_run, flip_checksums, delete_checksums]


@pytest.mark.parametrize("damage", DAMAGES + FLIPS)
def test_a_damaged_checkpoint_is_named(damage, copy, program):
    step = copy / "checkpoints" / "10"
    before = {f: f.read_bytes() for f in files_of(step)}
    damage(step)
    damaged = [f for f in before if not f.exists() or f.read_bytes() != before[f]]
    with pytest.raises(ValueError, match=re.escape(f"{step}/")) as e:
        Checkpoints(copy).restore(program.restorable())
    if damage is foreign:
        damaged = [step / "run" / "metadata"]  # without which nothing is known
    assert str(e.value).split(" is ")[0] in map(str, damaged)
    assert f"; move {step} away to use the one before it" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_without_checksums_is_named(damage, copy, program):
    step = copy / "checkpoints" / "10"
    unchecked(step)
    damage(step)
    with pytest.raises(ValueError, match=re.escape(str(step))) as e:
        Checkpoints(copy).restore(program.restorable())
    assert f"; move {step} away to use the one before it" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_checkpoint_without_checksums_is_read_and_this_is_said(
    copy, whole, program, capsys
):
    unchecked(copy / "checkpoints" / "10")
    checkpoints = Checkpoints(copy)
    toy.assert_same_bits(checkpoints.restore(program.restorable()), whole.state)
    assert checkpoints.metrics(10) == whole.result["eval"]
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "without checksums" in line]) == 1


def test_every_file_has_its_hash(whole):
    """But for the two that orbax writes last, from which no value is read."""
    step = whole.workdir / "checkpoints" / "10"
    listed = manifest.read_json(epath.Path(step / "checksums.json"))
    files = {str(f.relative_to(step)) for f in files_of(step)}
    files -= {"checksums.json", "_CHECKPOINT_METADATA", "commit_success.txt"}
    assert listed.keys() == files
    for name, account in listed.items():
        data = (step / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert account == {"bytes": len(data), "sha256": digest}


@pytest.fixture
def saved(whole, program, tmp_path):
    """A workdir with checkpoints of steps 6, 8 and 10, of which 6 is the best."""
    keep = toy.change(program.config, train={"keep_best": 3})
    checkpoints = Checkpoints(tmp_path, keep)
    for step, loss in ((6, 1.0), (8, 2.0), (10, 3.0)):
        checkpoints.save(whole.state.replace(step=np.int32(step)), {"loss": loss})
    checkpoints.close()
    return tmp_path


def test_to_read_the_best_whole_one_is_taken_and_this_is_said(saved, capsys):
    folder = saved / "checkpoints"
    flip_largest(folder / "6")
    flip_run(folder / "10")
    load_params(saved)
    said = capsys.readouterr().err
    assert f"{folder}/6/state/" in said and f"{folder}/10/run/metadata" in said
    assert "step 8 is the best that is whole, and is read instead" in said
    with pytest.raises(ValueError, match=f"{folder}/6/state/.* is damaged"):
        load_params(saved, 6)  # which was asked for
    flip_largest(folder / "8")
    with pytest.raises(ValueError, match=" is damaged"):
        load_params(saved)


def test_to_go_on_the_last_whole_one_is_taken_only_when_told(saved, program, capsys):
    folder = saved / "checkpoints"
    for step in ("8", "10"):
        flip_largest(folder / step)
    writing = Checkpoints(saved, program.config)
    with pytest.raises(ValueError, match="train.damaged='set_aside' lets"):
        writing.restore(program.restorable())
    writing.set_aside_damaged()
    assert int(writing.restore(program.restorable()).step) == 6
    assert {p.name for p in (saved / "damaged").iterdir()} == {"8", "10"}
    said = capsys.readouterr().err
    assert all(f"was moved to {saved}/damaged/{step}" in said for step in (8, 10))
    assert "set_aside" not in said  # a remedy that was taken is not advised
    flip_largest(folder / "6")
    with pytest.raises(ValueError, match="no checkpoint in .* is whole"):
        Checkpoints(saved, program.config).set_aside_damaged()


def test_an_older_one_that_is_damaged_does_not_matter_and_is_kept(
    saved, whole, program
):
    folder = saved / "checkpoints"
    for step in ("6", "8"):
        unchecked(folder / step)
        (folder / step / "metrics" / "metrics").write_text("{")
    writing = Checkpoints(saved, program.config)
    assert int(writing.restore(program.restorable()).step) == 10
    writing.save(whole.state.replace(step=np.int32(12)), {"loss": 0.5})
    writing.close()
    assert sorted(p.name for p in folder.iterdir()) == ["12", "6", "8"]


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
    with pytest.raises(ValueError, match=f"move {folder}/10 away"):
        Checkpoints(tmp_path).restore(program.restorable())
    (folder / "10").rename(tmp_path / "moved")
    assert int(Checkpoints(tmp_path).restore(program.restorable()).step) == 8


def test_another_format_is_named(copy, program):
    step = copy / "checkpoints" / "10"
    delete_checksums(step)
    path = step / "run" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99; this version reads 2 and 3"):
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
