"""Every command and every piece of code in the README runs, at toy size."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# What shrinks a command: any config to a toy on a small corpus.
TOY = [
    "--config.data.source=python_docs/small",
    "--config.data.tokenizer.vocab_size=512",
    "--config.model.vocab_size=512",
    "--config.model.d_model=16",
    "--config.model.d_ff=32",
    "--config.model.num_layers=1",
    "--config.model.num_heads=2",
    "--config.model.num_kv_heads=2",
    "--config.data.batch_size=8",
    "--config.data.seq_len=32",
    "--config.train.steps=2",
    "--config.optimizer.schedule.warmup_steps=1",
    "--config.train.eval_batches=1",
]
MAINS = {
    "benchmark": ["--steps=1", "--repeats=1"],
    "generate": ["--max_new_tokens=2"],
    "benchmark_loader": ["--millions=1", "--rounds=1", "--batches=2"],
    "benchmark_prepare": ["--megabytes=1", "--vocab_size=300"],
    "objectives": ["--quick", "--only=next_sentence"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("bash launch/test")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def toy(line, workdir):
    """The command's words and its environment, shrunk, with runs/ in `workdir`."""
    words = [w.replace("runs/", f"{workdir}/") for w in shlex.split(line)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    if words[0] == "bash":
        # the script would make an environment; this one has all that it needs
        text = (ROOT / words[1]).read_text()
        module = re.search(r"exec python -m (\S+)", text)
        words = [
            "python",
            "-m",
            module[1],
            "--quick",
            f"--workdir={workdir}/quickstart",
        ]
    assert words[:2] == ["python", "-m"], line
    name = words[2].removeprefix("experiments.")
    words += TOY if any(w.startswith("--config=") for w in words) else []
    return [sys.executable, *words[1:], *MAINS.get(name, [])], environment


@pytest.mark.parametrize("line", commands())
def test_command(line, workdir):
    words, environment = toy(line, workdir)
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_code(workdir, monkeypatch):
    monkeypatch.chdir(workdir)
    scope = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert (workdir / "runs/tuned/metrics.jsonl").exists()


def test_every_main_is_shown():
    mains = {p.stem for p in (ROOT / "experiments").glob("[a-z]*.py")}
    mains -= {"cli", "several"}  # what they share
    shown = set(re.findall(r"experiments\.(\w+)", README))
    assert mains <= shown
