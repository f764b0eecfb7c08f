"""The supervisor, over processes of a shell: what it says, how and when all end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmjax.parallel.processes import supervise

ROOT = Path(__file__).parents[2]
SUPERVISE = "llmjax.parallel.processes.supervise"
# process k runs the k-th line; the others' flags come after its own
SHELL = ("bash", "-c", 'k=${2#--process_id=} && eval "$(sed -n $((k + 1))p "$0")"')


def run(tmp_path, capfd, *lines, flags=()):
    """(exit code, what was said) of a supervisor whose process k runs line k."""
    script = tmp_path / "lines"
    script.write_text("\n".join(lines))
    flags = [f"--processes={len(lines)}", f"--logs={tmp_path}", *flags]
    code = supervise.main([*flags, "--", *SHELL, str(script)])
    return code, capfd.readouterr().err


def ignore(line: str) -> str:
    """`line` of a process that SIGTERM doesn't end."""
    return f"trap '' TERM; {line}"


STEP = 'printf 7 >"$LLMJAX_STEP_FILE"'
WAIT = "for i in {1..600}; do sleep 0.1; done"


def test_all_that_end_well_are_a_success(tmp_path, capfd):
    code, said = run(tmp_path, capfd, "echo shown", "echo kept; sleep 0.2")
    assert code == 0 and "kept" in (tmp_path / "1.log").read_text()
    assert "ended" not in said


def test_a_killed_one_ends_the_others_that_would_wait_for_ever(tmp_path, capfd):
    lost = f"sleep 0.3; {STEP}; echo last words; kill -KILL $$"
    started = time.monotonic()
    code, said = run(
        tmp_path, capfd, WAIT, ignore(WAIT), lost, WAIT, flags=["--timeout=1"]
    )
    assert time.monotonic() - started < 30  # not the 60 s of the others
    assert code == 128 + signal.SIGKILL
    assert "process 2 of 4 was killed by SIGKILL after step 7" in said
    assert "last words" in said
    assert "the other 3 have ended; 1 by SIGKILL" in said


def test_of_all_that_are_lost_when_it_looks_the_cause_is_named(
    tmp_path, capfd, monkeypatch
):
    """The others: jax aborts a survivor, or its transport fails."""
    poll = subprocess.Popen.poll
    start = time.monotonic()

    def late(process):
        return poll(process) if time.monotonic() - start > 1 else None

    monkeypatch.setattr(subprocess.Popen, "poll", late)
    lines = "kill -ABRT $$", "exit 1", "kill -KILL $$"
    _, said = run(tmp_path, capfd, *lines)
    assert "process 2 of 3 was killed by SIGKILL before a step" in said


def test_a_loss_is_started_again_so_often_and_a_mistake_never(tmp_path, capfd):
    count = f"echo x >>{tmp_path}/count"
    code, said = run(tmp_path, capfd, f"{count}; exit 3", flags=["--restarts=2"])
    assert code == 3 and (tmp_path / "count").read_text() == "x\n" * 3
    assert "process 0 of 1 ended with code 3 before a step" in said
    (tmp_path / "count").unlink()
    code, _ = run(tmp_path, capfd, f"{count}; exit 2", flags=["--restarts=2"])
    assert code == 2 and (tmp_path / "count").read_text() == "x\n"


def test_sigterm_goes_to_all_who_may_save_and_nothing_is_started_again(tmp_path):
    save = "trap 'echo saved; exit 0' TERM; touch ready.$k; " + WAIT
    (tmp_path / "lines").write_text(f"{save}\n{save}")
    flags = ["--processes=2", "--restarts=1", f"--logs={tmp_path}"]
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "llmjax.parallel.processes.supervise",
            *flags,
            "--",
            *SHELL,
            "lines",
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    while not all((tmp_path / f"ready.{k}").exists() for k in range(2)):
        assert supervisor.poll() is None
        time.sleep(0.01)
    supervisor.terminate()
    out, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0
    assert out == b"saved\n" and "saved" in (tmp_path / "1.log").read_text()


def test_one_that_sigterm_ended_early_is_no_loss_and_no_success(tmp_path, capfd):
    """The others save, too: all are told, waited for, and not started again."""
    count = f"echo x >>{tmp_path}/count"
    early = f"{count}; sleep 0.3; exit {supervise.STOPPED}"
    other = f"trap 'sleep 2; {STEP}; exit {supervise.STOPPED}' TERM; {WAIT}"
    flags = ["--restarts=2", "--timeout=1"]
    code, said = run(tmp_path, capfd, early, other, flags=flags)
    assert code == 143 and (tmp_path / "count").read_text() == "x\n"
    assert (tmp_path / "1.step").read_text() == "7"  # 2 s, not the 1 s of a loss
    assert "ended with" not in said


def test_dry_run_prints_a_command_for_each_process(capsys):
    flags = ["--dry_run", "--processes=2", "--devices=4", "--logs=L"]
    assert supervise.main([*flags, "--", "python", "-m", "x", "--a=b c"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"env LLMJAX_STEP_FILE=L/1.step JAX_PLATFORMS=cpu XLA_FLAGS=.*device_count=4'? "
        r"python -m x '--a=b c' --coordinator=localhost:PORT --process_id=1 "
        r"--process_count=2 >L/1.log 2>&1",
        second,
    )
    assert "--process_id=0" in first and ">" not in first


def test_on_several_hosts_the_environment_says_who_is_who(capsys):
    assert supervise.main(["--dry_run", "--hosts", "--", "python", "-m", "x"]) == 0
    assert capsys.readouterr().out.endswith("python -m x --distributed\n")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([f"--processes={10**20}", "--", "x"], "is no number from 1 to 4096"),
        (["--processes=\u00b2", "--", "x"], "is no number from 1 to 4096"),
        (["--processes=0", "--", "x"], "--processes: '0' is no number from 1 to 4096"),
        (["--devices=two", "--", "x"], "--devices: 'two' is no number"),
        (["--proceses=2", "--", "x"], "--proceses=2"),
        (["--processes=2"], "the command is missing"),
        (["--hosts", "--processes=2", "--", "x"], "leave --processes out"),
        (["--gpus=1", "--devices=1", "--", "x"], "give one of them"),
    ],
)
def test_a_mistake_in_the_flags_is_named(flags, told, capsys):
    with pytest.raises(SystemExit) as end:
        supervise.main(flags)
    assert end.value.code == 2
    assert told in capsys.readouterr().err
