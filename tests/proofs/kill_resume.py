"""Kills and ends `experiments.pretrain`, starts it again, and compares bit for bit.

    python tests/proofs/kill_resume.py [--workdir=DIR] [--kills=30]

One run is never interrupted. A second one is killed with SIGKILL early on, while a
checkpoint is being written, and between two checkpoints; a third one gets SIGTERM
twice. Each is started again with the same command until it is done. Parameters,
optimizer state and logged metrics of all three must be the same; exits 1 if not.
--kills=30 kills further runs so often, at random moments of their whole time.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmjax.parallel.processes import supervise

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
CONFIG = [
    "--config=configs/pretrain/python_docs.py",
    "--config.data.source=python_docs/small",
    "--config.data.tokenizer.vocab_size=2048",
    "--config.data.seq_len=128",
    "--config.model.vocab_size=2048",
    "--config.model.d_model=128",
    "--config.model.d_ff=352",
    "--config.model.num_layers=2",
    "--config.model.dropout=0.1",
    "--config.optimizer.ema=0.9",
    "--config.optimizer.schedule.warmup_steps=10",
    f"--config.train.steps={STEPS}",
    "--config.train.log_every=1",
    "--config.train.eval_every=15",
    "--config.train.eval_batches=2",
    "--config.train.checkpoint_every=10",
]
TIMES = ("tokens_per_second",)  # keys of a row that are no function of the config


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    """The run's one command, the first time and every other time."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.pretrain",
                *CONFIG,
                f"--workdir={workdir}",
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )


def rows(workdir: Path) -> list[dict]:
    """The whole rows of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    out = []
    for line in lines:
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return out


def logged(step: int) -> Callable[[Path], bool]:
    """True once the training row of `step` is there."""

    def reached(workdir: Path) -> bool:
        return any(r["step"] >= step and "train/loss" in r for r in rows(workdir))

    return reached


def half_written(workdir: Path) -> list[str]:
    """The checkpoints that are being written."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return []
    return [p.name for p in folder.iterdir() if "orbax-checkpoint-tmp" in p.name]


def finish(process: subprocess.Popen, workdir: Path, code: int = 0) -> None:
    if process.wait() != code:
        print(workdir.with_suffix(".log").read_text()[-3000:])
        sys.exit(f"the run in {workdir} ended with {process.returncode}")


def interrupt(
    process: subprocess.Popen,
    workdir: Path,
    moment: Callable[[Path], object],
    number: signal.Signals,
) -> bool:
    """Sends the signal at that moment; False where the run was over before."""
    while process.poll() is None:
        if moment(workdir):
            process.send_signal(number)
            process.wait()
            return True
        time.sleep(0.001)
    finish(process, workdir)
    return False


def killed(workdir: Path, cache: Path) -> list[str]:
    """Kills a run at three moments and lets it end; says where it was each time."""
    told = []
    for name, moment in (
        ("before the first checkpoint", logged(4)),
        ("while a checkpoint was written", half_written),
        ("between two checkpoints", logged(45)),
    ):
        for _ in range(5):
            process = start(workdir, cache)
            if not interrupt(process, workdir, moment, signal.SIGKILL):
                sys.exit(f"the run was over before it could be killed {name}")
            left = half_written(workdir)
            last = rows(workdir)[-1]["step"] if rows(workdir) else 0
            told.append(f"SIGKILL {name}: last row {last}, half-written {left or '-'}")
            if moment is not half_written or left:
                break
        else:
            sys.exit("no kill fell into the writing of a checkpoint")
    finish(start(workdir, cache), workdir)
    return told


def ended(workdir: Path, cache: Path) -> list[str]:
    """Sends SIGTERM twice and lets the run end; it must save and exit with 143."""
    told = []
    for step in (13, 37):
        process = start(workdir, cache)
        if not interrupt(process, workdir, logged(step), signal.SIGTERM):
            sys.exit("the run was over before it could be ended")
        finish(process, workdir, supervise.STOPPED)
        saved = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
        result = json.loads((workdir / "result.json").read_text())
        if result["finished"] or result["step"] != saved[-1]:
            sys.exit(f"SIGTERM: result.json says {result}, saved are {saved}")
        told.append(f"SIGTERM after row {step}: exit 143, saved at step {saved[-1]}")
    finish(start(workdir, cache), workdir)
    return told


def killed_at_random(
    parent: Path, cache: Path, kills: int, seconds: float
) -> list[Path]:
    """Workdirs of runs that were killed, so often together, and started again."""
    rng = random.Random(0)
    workdirs: list[Path] = []
    while kills > 0:
        workdirs.append(workdir := parent / f"killed_at_random_{len(workdirs)}")
        shutil.rmtree(workdir, ignore_errors=True)
        over = False
        while kills > 0 and not over:
            began = time.monotonic()
            end = began + rng.uniform(0, seconds)
            process = start(workdir, cache)

            def reached(_: Path, end: float = end) -> bool:
                return time.monotonic() > end

            over = not interrupt(process, workdir, reached, signal.SIGKILL)
            kills -= not over
            if over:  # a machine with less to do now: the next are to come earlier
                seconds = min(seconds, time.monotonic() - began)
        if not over:
            finish(start(workdir, cache), workdir)
    return workdirs


def state(workdir: Path) -> dict[str, bytes]:
    """Every leaf of the last checkpoint: its name, and its type, shape and bits."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    path = workdir / "checkpoints" / str(STEPS) / "state"
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(sharding=device), tree)
        found = reader.restore(path, restore_args=args)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    out = {}
    for key, leaf in leaves:
        array = np.asarray(leaf)
        head = f"{array.dtype}{array.shape}".encode()
        name = jax.tree_util.keystr(key, simple=True, separator="/")
        out[name] = head + array.tobytes()
    return out


def compare(what: str, one: Path, other: Path) -> bool:
    """Prints a table of two runs' leaves and rows; True where all are the same."""
    a, b = state(one), state(other)
    groups: dict[str, list[bool]] = {}
    for name in a.keys() | b.keys():
        group = "/".join(name.split("/")[: 2 if name.startswith("opt_state") else 1])
        groups.setdefault(group, []).append(a.get(name) == b.get(name))
    lines = [(f"{g} (leaves)", len(v), v.count(False)) for g, v in groups.items()]
    left, right = ([untimed(r) for r in rows(w)] for w in (one, other))
    for kind in ("train", "eval"):
        x, y = ([r for r in side if f"{kind}/loss" in r] for side in (left, right))
        differ = abs(len(x) - len(y)) + sum(map(dict.__ne__, x, y))
        lines.append((f"{kind} metrics (rows)", len(x), differ))
    print(f"\n{what}, beside the run that was not:")
    for name, count, differ in sorted(lines):
        print(f"  {name:24} {count:5d} compared {differ:5d} differ")
    return left == right and a == b


def untimed(row: dict) -> dict:
    return {k: v for k, v in row.items() if not k.endswith(TIMES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="default: a temporary folder")
    parser.add_argument("--kills", type=int, default=0, help="at random moments")
    args = parser.parse_args()
    parent = args.workdir or Path(tempfile.mkdtemp(prefix="kill_resume"))
    parent = parent.expanduser().resolve()
    runs = {name: parent / name for name in ("uninterrupted", "killed", "ended")}
    for workdir in runs.values():
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.with_suffix(".log").unlink(missing_ok=True)
    parent.mkdir(parents=True, exist_ok=True)
    cache = parent / "compiled"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    prepare = [sys.executable, "-m", "experiments.prepare_data", *CONFIG]
    subprocess.run(prepare, cwd=ROOT, env=environment, check=True, capture_output=True)
    print(f"in {parent}: python -m experiments.pretrain {' '.join(CONFIG)}\n")
    finish(start(runs["uninterrupted"], cache), runs["uninterrupted"])
    began = time.monotonic()
    told = killed(runs["killed"], cache)
    of_one = (time.monotonic() - began) / 2  # four starts, two of them to near the end
    told += ended(runs["ended"], cache)
    for workdir in killed_at_random(parent, cache, args.kills, of_one):
        runs[workdir.name] = workdir
        told.append(f"SIGKILL at random moments: {workdir.name}")
    print("\n".join(told))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    same = [
        compare(f"The run that was {name}", runs["uninterrupted"], runs[name])
        for name in list(runs)[1:]
    ]
    if not all(same):
        sys.exit("\nNOT the same")
    print("\nbit for bit the same")


if __name__ == "__main__":
    main()
