"""A user's mistake: one line that names the key, the value and the remedy; code 2."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from tests.experiments.forked import Mains

PRETRAIN = "--config=configs/pretrain/python_docs.py"


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    """On two devices, so that something may not divide over them."""
    mains = Mains(tmp_path_factory.mktemp("mains"), devices=2)
    yield mains
    mains.close()


def assert_told(done, *words):
    assert done.code == 2, done.err
    (line,) = (x for x in done.err.splitlines() if x.strip())
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.modle.d_model=64"], ["'modle'", "did you mean 'model'"]),
        (
            ["--config.model.d_modle=64"],
            ["'model.d_modle'", "did you mean 'model.d_model'"],
        ),
        (["--config.model.d_model=wide"], ["d_model=wide: accepted: int"]),
        (["--config.data.packing=7"], ["data.packing", "7", "'chunk', 'pad'"]),
        (
            ["--config.optimizer.algorithm.kind=adam"],
            ["optimizer.algorithm.kind", "'adam'", "'adamw'"],
        ),
        (
            ["--config.optimizer.algorithm.decay_rate=0.5"],
            ["optimizer.algorithm.decay_rate", "'muon'", "'adafactor'"],
        ),
        (
            ["--config.model.num_heads=3"],
            ["d_model=256", "num_heads=3", "set head_dim"],
        ),
        (["--config.init.kind=checkpoint"], ["init", "path is empty"]),
        (["--profile=3"], ["--profile=3", "start:stop"]),
        (["--profile=9:3"], ["--profile=9:3", "ends before it starts"]),
    ],
    ids=lambda x: x[0].split("=")[0] if isinstance(x[0], str) else None,
)
def test_a_wrong_flag(flags, words, mains, tmp_path):
    done = mains.run("pretrain", PRETRAIN, f"--workdir={tmp_path}/run", *flags)
    assert_told(done, *words)
    assert not (tmp_path / "run").exists()


def test_too_few_steps_are_told_before_texts_are_prepared(mains, tmp_path):
    (tmp_path / "book.txt").write_text("A line of the book.\n" * 100)
    source = f"--config.data.source={tmp_path}/book.txt"
    place = f"--config.data.directory={tmp_path}/prepared"
    flags = (source, place, "--config.train.steps=4", f"--workdir={tmp_path}/run")
    done = mains.run("pretrain", PRETRAIN, *flags)
    assert_told(done, "warmup_steps=40", "train.steps=4", "lower it")
    assert not (tmp_path / "prepared").exists()


def test_a_missing_corpus(mains, tmp_path):
    place = f"--config.data.directory={tmp_path}"
    done = mains.run("pretrain", PRETRAIN, f"--workdir={tmp_path}/run", place)
    assert_told(done, "'python_docs' is not prepared", "llmjax prepare_data")


@pytest.mark.parametrize("main", ["pretrain", "prepare_data"])
def test_an_unknown_corpus(main, mains, tmp_path):
    source = "--config.data.source=/no/such/folder"
    done = mains.run(main, PRETRAIN, f"--workdir={tmp_path}/run", source)
    assert_told(done, "data.source='/no/such/folder' is not there", "has no 'no'")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.data.batch_size=7", ["batch_size=7", "2 devices", "multiple of 2"]),
        ("--config.layout.fsdp=3", ["3 devices", "fsdp=3", "there are 2"]),
        (
            "--config.layout.tensor=2 --config.model.d_ff=101 --config.layout.data=1",
            ["mlp", "'F' of size 101", "'tensor' of size 2", "multiple of 2"],
        ),
    ],
)
def test_what_does_not_divide(flag, words, mains):
    done = mains.run(
        "benchmark",
        "--config=configs/benchmark/gpt2_6l.py",
        "--repeats=1",
        *flag.split(),
    )
    assert_told(done, *words)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, 2), (errno.EACCES, 2), (errno.ENOSPC, 1)]
)
def test_a_workdir_that_takes_nothing(number, code, capsys):
    with pytest.raises(SystemExit) as end, cli.one_line_errors():
        raise OSError(number, os.strerror(number), "runs/x")
    assert end.value.code == code
    remedy = "; give another place" if code == 2 else ""
    line = f"error: runs/x: {os.strerror(number)}{remedy}\n"
    assert capsys.readouterr().err == line


def test_required_flags(mains, tmp_path):
    assert_told(mains.run("pretrain", PRETRAIN), "--workdir is missing; --help")
    assert_told(mains.run("convert"), "--source and --target are missing")
    done = mains.run("pretrain", PRETRAIN, f"--workdir={tmp_path}", "stray")
    assert_told(done, "'stray' belongs to no flag")
    assert_told(mains.run("pretrain", "--wrkdir=x"), "wrkdir", "Did you mean: workdir")


@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("return {'finished': False, 'step': 3}", 143, ""),
        ("return {'finished': True, 'step': 3}", 0, ""),
    ],
)
def test_exit_codes(body, code, last, tmp_path):
    """As a scheduler sees them: a run that SIGTERM ended early is no success."""
    main = f"from experiments import cli\ndef main():\n    {body}\ncli.launch(main)"
    done = subprocess.run(
        [sys.executable, "-c", main, f"--workdir={tmp_path}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip()) == (code, last)
    assert (tmp_path / "result.json").exists() == (code != 130)


@pytest.mark.parametrize("main", ["evaluate", "generate"])
def test_no_run(main, mains, tmp_path):
    done = mains.run(main, f"--run={tmp_path}/none")
    assert_told(done, f"{tmp_path}/none does not exist", "workdir of a run")


@pytest.mark.parametrize("main", ["evaluate", "generate"])
def test_a_foreign_checkpoint(main, mains, tmp_path):
    step = tmp_path / "run" / "checkpoints" / "40"
    step.mkdir(parents=True)
    shutil.copy(__file__, step)
    done = mains.run(main, f"--run={tmp_path}/run")
    assert_told(done, f"{step}/run/metadata is damaged: it is missing; move {step} aw")


def test_a_number_that_is_not_finite_is_named_beside_valid_json():
    result = {"loss": 1.5, "report": [{"f1": math.nan}, (math.inf, 2)], "run": "a"}
    text, wrong = cli.to_json(result)
    shown = json.loads(text)
    assert shown == {"loss": 1.5, "report": [{"f1": None}, [None, 2]], "run": "a"}
    assert wrong == ["report/0/f1 is nan", "report/1/0 is inf"]
    assert cli.to_json({"loss": 1.5})[1] == []


@pytest.mark.parametrize("flags", [[], ["--config.train.steps=3"]])
def test_a_config_file_that_is_not_there(flags, mains, tmp_path):
    done = mains.run(
        "pretrain", f"--config={tmp_path}/none.py", f"--workdir={tmp_path}", *flags
    )
    assert_told(done, f"--config={tmp_path}/none.py is not there; give the path of a ")
