"""A run that is killed, ended or poisoned, beside one that is not."""

import dataclasses
import errno
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.store import manifest
from llmjax.train import loop
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.metrics import writers
from tests.train import toy


class Killed(BaseException):
    pass


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def fit(program, train, held_out, workdir, **options):
    return loop.fit(program, train, held_out, workdir, progress=False, **options)


def steps_kept(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def assert_as_uninterrupted(whole, workdir, state):
    toy.assert_same_bits(jax.device_get(state), whole.state)
    rows, wanted = writers.read(workdir), writers.read(whole.workdir)
    assert toy.untimed(rows) == toy.untimed(wanted)


@pytest.mark.parametrize("step", [2, 6])
def test_killed_and_started_again(step, whole, program, train, held_out, tmp_path):
    """Before the first checkpoint, and after it with more logged than saved."""
    with pytest.raises(Killed):
        fit(program, toy.Interrupted(train, step, kill), held_out, tmp_path)
    assert writers.read(tmp_path)[-1]["step"] > step // 4 * 4
    with (tmp_path / writers.METRICS_FILE).open("a") as f:
        f.write('{"step": 9, "train/loss": 1.0}\n{"step": 10, "tra')
    assert writers.read(tmp_path)[-1]["step"] == 9  # the torn row does not count
    state, result = fit(program, train, held_out, tmp_path)
    assert_as_uninterrupted(whole, tmp_path, state)
    assert result["eval"] == whole.result["eval"]


def test_sigterm_saves_and_the_same_call_goes_on(
    whole, program, train, held_out, tmp_path
):
    before = signal.getsignal(signal.SIGTERM)
    ended = toy.Interrupted(train, 5, terminate)
    _, result = fit(program, ended, held_out, tmp_path)
    assert (result["step"], result["finished"]) == (6, False)
    assert 6 in steps_kept(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    state, result = fit(program, train, held_out, tmp_path)
    assert result["finished"]
    assert_as_uninterrupted(whole, tmp_path, state)


def test_started_again_at_the_end_nothing_changes(program, train, held_out, tmp_path):
    config = toy.change(program.config, train={"steps": 2})
    short = dataclasses.replace(program, config=config)
    first, result = fit(short, train, held_out, tmp_path)
    rows = writers.read(tmp_path)
    again, repeated = fit(short, train, held_out, tmp_path)
    toy.assert_same_bits(jax.device_get(again), jax.device_get(first))
    assert writers.read(tmp_path) == rows
    assert repeated["eval"] == result["eval"]
    # a report of the run says the same the second time
    assert repeated["train"]["loss"] == result["train"]["loss"]
    assert repeated["tokens_per_second"] > 0


def test_a_profile_of_steps_already_done_is_no_error(whole, program, train, tmp_path):
    with pytest.raises(Killed):
        fit(program, toy.Interrupted(train, 5, kill), None, tmp_path)
    state, _ = fit(program, train, None, tmp_path, profile=(2, 6))
    toy.assert_same_bits(jax.device_get(state), whole.state)


def poisoned(program, at, spoil):
    """`program` whose update number `at` gives what `spoil` makes of (state, out)."""

    def step(state, batch):
        state, out = program.step(state, batch)
        return spoil(state, out) if int(state.step) == at else (state, out)

    return dataclasses.replace(program, step=step)


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(
    program, train, held_out, tmp_path
):
    def spoil(state, out):
        metrics, scalars = out
        loss = jnp.float32(jnp.nan), metrics["loss"][1]
        nans = jax.tree.map(lambda x: x * jnp.nan, state.params)
        return state.replace(params=nans), ({**metrics, "loss": loss}, scalars)

    with pytest.raises(loop.NotFiniteError, match="nan.*; nothing was saved before it"):
        fit(poisoned(program, 2, spoil), train, held_out, tmp_path)
    assert steps_kept(tmp_path) == []
    named = "step 8: loss is nan.*; the last checkpoint is of step 4"
    with pytest.raises(loop.NotFiniteError, match=named):
        fit(poisoned(program, 8, spoil), train, held_out, tmp_path)
    assert steps_kept(tmp_path) == [4]
    with pytest.raises(loop.NotFiniteError, match="the last checkpoint is of step 4"):
        fit(poisoned(program, 5, spoil), train, held_out, tmp_path)
    state = Checkpoints(tmp_path).restore(program.restorable())
    assert int(state.step) == 4
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_a_gradient_that_is_not_finite_just_after_a_checkpoint(
    program, train, held_out, tmp_path
):
    """That checkpoint is still being written; it must end whole."""

    def spoil(state, out):
        metrics, scalars = out
        return state, (metrics, {**scalars, "grad_norm": jnp.float32(jnp.inf)})

    with pytest.raises(loop.NotFiniteError, match="step 5"):
        fit(poisoned(program, 5, spoil), train, held_out, tmp_path)
    assert steps_kept(tmp_path) == [4]
    assert Checkpoints(tmp_path).latest_step == 4


def test_a_full_disk_is_one_error_and_what_was_saved_stays(
    program, train, held_out, tmp_path, monkeypatch
):
    write = manifest.write_json
    written = []

    def full(path, value):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, value)

    monkeypatch.setattr(manifest, "write_json", full)
    with pytest.raises(OSError, match="No space left on device: a checkpoint") as e:
        fit(program, train, held_out, tmp_path)
    # a traceback would show no other error
    assert (e.value.errno, e.value.__cause__) == (errno.ENOSPC, None)
    assert e.value.__suppress_context__
    assert Checkpoints(tmp_path).latest_step == 4
    monkeypatch.undo()
    assert int(fit(program, train, held_out, tmp_path)[0].step) == 10


def test_weights_that_overflow_are_not_saved(program, train, held_out, tmp_path):
    """Loss and gradient of a step are those of before its update."""

    def spoil(state, out):
        params = jax.tree.map(lambda x: x * jnp.inf, state.params)
        return state.replace(params=params), out

    with pytest.raises(loop.NotFiniteError, match="step 8"):
        fit(poisoned(program, 8, spoil), train, held_out, tmp_path)
    assert steps_kept(tmp_path) == [4]
