"""Every main as a command at toy size: what it prints and what it leaves behind."""

import json
import re
import shlex
import shutil
import types

import numpy as np
import pytest

from tests.experiments.forked import Mains

pytestmark = pytest.mark.slow

TOY = [
    "--config.data.tokenizer.vocab_size=300",
    "--config.data.seq_len=16",
    "--config.model.vocab_size=300",
    "--config.model.d_model=16",
    "--config.model.d_ff=32",
    "--config.model.num_layers=2",
    "--config.model.num_heads=2",
    "--config.layout.unroll=1",
    "--config.train.steps=4",
    "--config.train.log_every=1",
    "--config.train.eval_every=2",
    "--config.train.checkpoint_every=2",
    "--config.optimizer.schedule.warmup_steps=1",
]
PRETRAIN = ["--config=configs/pretrain/python_docs.py", *TOY]
FINETUNE = ["--config=configs/finetune/python_docs.py", *TOY]


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of texts, and where everything else goes."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "texts").mkdir()
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abdegiklmnorstu"], 5)) for _ in range(400)]
    for i in range(80):
        lines = (" ".join(rng.choice(words, 9)) for _ in range(6))
        (folder / "texts" / f"{i}.txt").write_text(".\n".join(lines))
    return folder


def succeed(mains, main, *args):
    done = mains.run(main, *args)
    assert done.code == 0, done.err
    return done


def result_of(workdir, done):
    """result.json; what is printed is for people."""
    result = json.loads((workdir / "result.json").read_text())
    assert "{" not in done.out and "sha256" not in done.out
    return result


@pytest.fixture(scope="module")
def pretrained(mains, place):
    """Prepared and pretrained on the folder of texts."""
    data = [
        f"--config.data.source={place}/texts",
        f"--config.data.directory={place}/cache",
    ]
    workdir = place / "pretrain"
    prepared = succeed(
        mains, "prepare_data", *PRETRAIN, *data, f"--workdir={place}/prepared"
    )
    run = succeed(mains, "pretrain", *PRETRAIN, *data, f"--workdir={workdir}")
    return types.SimpleNamespace(
        data=data, workdir=workdir, prepared=prepared, done=run
    )


def test_prepare_data(pretrained, place):
    result = result_of(place / "prepared", pretrained.prepared)
    assert 256 < result["vocab_size"] <= 300
    assert result["token_files"]["text/train"]["documents"] > 0


def test_pretrain(pretrained):
    result = result_of(pretrained.workdir, pretrained.done)
    assert (result["step"], result["finished"]) == (4, True)
    assert result["eval"]["bits_per_byte"] > 0 and result["tokens_per_second"] > 0
    assert "4/4" in pretrained.done.err  # the bar
    assert "held out: loss" in pretrained.done.err and "evaluate" in pretrained.done.err
    for name, text in {
        "model": "LanguageModel, decoder: 2 layers, width 16, 2 heads, vocabulary 300",
        "starts from": "random weights, train.seed 0",
        "batch": r"\d+ rows × 16 tokens = ",
        "steps": r"4 = [\d.]+ epochs; evaluated every 2, saved every 2",
        "optimizer": r"\w+, learning rate 0.003 after 1 step of warm-up",
        "devices": "1 × cpu",
        "finished": "step 4",
        "held out": ".*loss ",
    }.items():
        assert re.search(f"^{name} +{text}", pretrained.done.out, re.MULTILINE), name
    config = json.loads((pretrained.workdir / "config.json").read_text())
    assert config["model"]["d_model"] == 16
    steps = [
        json.loads(line)["step"]
        for line in (pretrained.workdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [0, 1, 2, 2, 3, 4, 4]
    assert (pretrained.workdir / "checkpoints" / "4").is_dir()


def test_the_commands_that_are_named_next_run(mains, pretrained):
    named = re.findall(
        r"^next  python -m experiments\.(.*)$", pretrained.done.out, re.M
    )
    commands = [shlex.split(line.replace("TEXT", "badge")) for line in named]
    names = [name for name, *_ in commands]
    assert names == ["evaluate", "generate", "convert"] and "--split=test" in named[0]
    for command in commands:
        succeed(mains, *command)


def test_the_same_command_again_and_another(mains, pretrained):
    again = [*PRETRAIN, *pretrained.data, f"--workdir={pretrained.workdir}"]
    done = succeed(mains, "pretrain", *again)
    assert "finished, step 4 of 4; more steps extend it" in done.out
    assert "train:" not in done.err  # no bar where nothing is done
    done = mains.run("pretrain", *again, "--config.optimizer.learning_rate=0.5")
    assert done.code == 2 and "optimizer.learning_rate=0.003" in done.err


def test_other_texts_in_the_same_workdir(mains, pretrained, place):
    (place / "other.txt").write_text("something else entirely " * 200)
    source = f"--config.data.source={place}/other.txt"
    args = [*PRETRAIN, *pretrained.data, source, f"--workdir={pretrained.workdir}"]
    done = mains.run("pretrain", *args)
    last = done.err.splitlines()[-1]
    assert done.code == 2 and "holds a run with data.source=" in last, done.err
    assert "other.txt'; set it back, or give another --workdir" in last
    assert not [*place.rglob("other_*")]  # prepared for nothing


def test_finetune_without_labels(mains, pretrained, place):
    """A folder has no labels to tune on; that is told before anything is traced."""
    args = [
        *FINETUNE,
        *pretrained.data,
        "--config.data.batch_size=4",
        "--config.task.text_field=text",
        f"--config.init.path={pretrained.workdir}",
        f"--workdir={place}/finetune",
    ]
    done = mains.run("finetune", *args)
    assert done.code == 2 and "data.prepare.label" in done.err, done.err


def test_continued_pretraining_from_a_checkpoint(mains, pretrained, place):
    workdir = place / "continued"
    init = ["--config.init.kind=checkpoint", f"--config.init.path={pretrained.workdir}"]
    args = [*PRETRAIN, *pretrained.data, *init, f"--workdir={workdir}"]
    done = succeed(mains, "finetune", *args)
    assert "created 0: none" in done.out and "left over 0: none" in done.out
    assert "transformer/embedder/table" in done.out
    first = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    before = json.loads((pretrained.workdir / "result.json").read_text())["eval"]
    assert first["eval/loss"] == pytest.approx(before["loss"], rel=1e-5)


def test_evaluate(mains, pretrained, place):
    flags = f"--run={pretrained.workdir}", f"--workdir={place}/evaluated"
    done = succeed(mains, "evaluate", *flags)
    result = result_of(place / "evaluated", done)
    trained = json.loads((pretrained.workdir / "result.json").read_text())
    assert result["loss"] == pytest.approx(trained["eval"]["loss"], rel=1e-5)
    assert (result["step"], result["split"]) == (4, "validation")
    assert re.search(r"^step +4$", done.out, re.M)
    done = mains.run("evaluate", flags[0], "--split=nowhere")
    assert done.code == 2 and "no split 'nowhere'" in done.err


def test_generate(mains, pretrained, place):
    flags = [f"--run={pretrained.workdir}", "--max_new_tokens=3", "--prompt=one"]
    done = succeed(mains, "generate", *flags, f"--workdir={place}/said")
    (said,) = json.loads((place / "said/result.json").read_text())["generations"]
    assert said["prompt"] == "one" and said["prompt"] + said["text"] in done.out
    done = succeed(mains, "generate", *flags, "--bits=8", f"--workdir={place}/rounded")
    assert result_of(place / "rounded", done)["bits"] == 8
    done = mains.run("generate", *flags, "--bits=4", "--group=7")
    assert done.code == 2 and "group=7 does not divide axis" in done.err


def test_a_truncated_checkpoint(mains, pretrained, place):
    copy = place / "truncated"
    shutil.copytree(pretrained.workdir, copy)
    for file in (copy / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = mains.run("generate", f"--run={copy}")
    assert done.code == 2 and f"{copy}/checkpoints/4/state/d/" in done.err
    assert "Traceback" not in done.err


def test_benchmark(mains, place):
    """One line of JSON with everything that is said of a benchmark."""
    shape = [flag for flag in TOY if "model" in flag]
    done = succeed(
        mains,
        "benchmark",
        "--config=configs/benchmark/llama_4l.py",
        *shape,
        "--config.model.num_kv_heads=1",
        "--config.data.seq_len=16",
        "--config.layout.unroll=1",
        "--steps=2",
        "--repeats=1",
        "--beside=plain",
        f"--workdir={place}/benchmark",
    )
    (line,) = done.out.splitlines()
    result = json.loads(line)
    assert {
        "tokens_per_second",
        "step_seconds",
        "flops",
        "mfu",
        "mfu_causal",
        "peak_flops",
        "peak_measured",
        "peak_memory_bytes",
        "seconds_to_first_step",
    } <= set(result)
    assert set(result["step_seconds"]) == {"min", "median", "max"}
    assert len(result["peak_measured"]["before"]) == 3
    assert 0 < result["mfu_causal"] < result["mfu"]
    beside = result["beside"]
    assert beside["parameters"] == result["parameters"]
    assert beside["tokens_per_second_ratio"] == pytest.approx(
        beside["step_seconds"]["median"] / result["step_seconds"]["median"]
    )
    assert json.loads((place / "benchmark" / "result.json").read_text()) == result
