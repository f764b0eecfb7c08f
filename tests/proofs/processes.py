"""Several processes of `experiments.pretrain` train like one, and survive a loss.

    python tests/proofs/processes.py [--workdir=DIR]

A tiny model on real text: by one, two and four processes; by four of which one is
killed (SIGKILL) in the middle, gone on with by three; by two whose supervisor gets
SIGTERM, gone on with by one. Prints for each how it ended, in how many seconds after
the signal, and the largest difference of any loss from the one process that was never
interrupted; exits 1 where that is above 1e-5.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmjax.parallel.processes import supervise

ROOT = Path(__file__).resolve().parents[2]
CONFIG = [
    "--config=configs/pretrain/python_docs.py",
    "--config.data.source=python_docs/small",
    "--config.data.tokenizer.vocab_size=512",
    "--config.data.batch_size=12",  # divides by 1, 2, 3 and 4
    "--config.data.seq_len=64",
    "--config.model.vocab_size=512",
    "--config.model.d_model=32",
    "--config.model.d_ff=64",
    "--config.model.num_heads=2",
    "--config.model.num_layers=2",
    "--config.model.dropout=0.1",
    "--config.layout.precision.kind=float32",
    "--config.layout.data=-1",
    "--config.optimizer.schedule.warmup_steps=4",
    "--config.train.steps=16",
    "--config.train.log_every=1",
    "--config.train.eval_every=8",
    "--config.train.eval_batches=2",
    "--config.train.checkpoint_every=4",
]
KILLED = 6  # the step after which it is
TIMEOUT = 10


def environment(cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


class Supervised:
    """The supervisor over so many processes of the run."""

    def __init__(self, count: int, workdir: Path):
        self.logs = Path(tempfile.mkdtemp(prefix="logs-", dir=workdir.parent))
        supervise = [sys.executable, "-m", "llmjax.parallel.processes.supervise"]
        flags = [
            f"--processes={count}",
            "--devices=1",
            f"--timeout={TIMEOUT}",
            f"--logs={self.logs}",
        ]
        main = [sys.executable, "-m", "experiments.pretrain", f"--workdir={workdir}"]
        self.told = self.logs / "told"
        with self.told.open("w") as told:
            self.process = subprocess.Popen(
                [*supervise, *flags, "--", *main, *CONFIG],
                cwd=ROOT,
                env=environment(workdir.parent / "compiled"),
                stdout=told,
                stderr=told,
            )

    def pids(self) -> list[int]:
        """Of the processes, as the supervisor tells them."""
        found = re.search(r"\d+ processes: ([\d, ]+)", self.told.read_text())
        assert found
        return [int(pid) for pid in found[1].split(", ")]

    def wait_for(self, step: int) -> None:
        """Until process 0 has done `step`."""
        file = self.logs / "0.step"
        while not file.exists() or int(file.read_text() or 0) < step:
            if self.process.poll() is not None:
                sys.exit(f"it ended before step {step}:\n{self.told.read_text()}")
            time.sleep(0.01)

    def end(self, wanted: int = 0) -> float:
        """Seconds until all have ended, with that exit code."""
        started = time.monotonic()
        code = self.process.wait()
        if code != wanted:
            sys.exit(f"exit code {code}, not {wanted}:\n{self.told.read_text()}")
        return time.monotonic() - started

    def verdict(self) -> str:
        """What the supervisor says was lost."""
        told = re.search("supervise: (process .*)", self.told.read_text())
        assert told
        return told[1]


def rows(workdir: Path) -> list[dict[str, float]]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def difference(one: Path, other: Path) -> float:
    """The largest of any loss, of training or of an evaluation."""
    worst = 0.0
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a.keys() == b.keys()
        losses = [name for name in a if name.endswith("/loss")]
        worst = max([worst, *(abs(a[name] - b[name]) for name in losses)])
    return worst


def lost(parent: Path) -> tuple[Path, str]:
    """Four processes, one of them killed; then three."""
    workdir = parent / "lost"
    run = Supervised(4, workdir)
    run.wait_for(KILLED)
    os.kill(run.pids()[2], signal.SIGKILL)
    seconds = run.end(128 + signal.SIGKILL)
    told = f"137 after {seconds:.1f} s; {run.verdict()}"
    Supervised(3, workdir).end()
    return workdir, told


def ended(parent: Path) -> tuple[Path, str]:
    """Two processes, told to end; then one."""
    workdir = parent / "ended"
    run = Supervised(2, workdir)
    run.wait_for(KILLED)
    run.process.terminate()
    seconds = run.end(supervise.STOPPED)
    result = json.loads((workdir / "result.json").read_text())
    Supervised(1, workdir).end()
    return workdir, f"143 after {seconds:.1f} s, saved at step {result['step']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="default: a temporary folder")
    parent = parser.parse_args().workdir or Path(tempfile.mkdtemp(prefix="processes-"))
    parent = parent.expanduser().resolve()
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    prepare = [sys.executable, "-m", "experiments.prepare_data", *CONFIG]
    subprocess.run(
        prepare, cwd=ROOT, env=environment(parent), check=True, capture_output=True
    )
    table = []
    for count in (1, 2, 4):
        workdir = parent / str(count)
        Supervised(count, workdir).end()
        table.append((f"{count}", workdir, "0"))
    table.append(("4, one killed, then 3", *lost(parent)))
    table.append(("2, told to end, then 1", *ended(parent)))
    whole, worst = table[0][1], 0.0
    print(f"{'processes':24}{'largest difference':20}exit code")
    for name, workdir, told in table:
        found = difference(whole, workdir)
        worst = max(worst, found)
        print(f"{name:24}{found:<20.1e}{told}")
    last = rows(whole)[-1]
    print(f"{len(rows(whole))} rows each; the last loss is {last['eval/loss']:.6f}")
    if worst > 1e-5:
        sys.exit("NOT the same")


if __name__ == "__main__":
    main()
