"""Runs mains as commands, each in a process of its own, imports paid for once."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Reads a command per line, forks, runs it as `python -m` would, answers with its exit
# code. Nothing is computed before the fork, so that no backend and no flag is shared.
SERVER = """
import json, os, runpy, sys, traceback
import grain, jax, optax, orbax.checkpoint, tensorflow_datasets
import llmjax.data.corpora.python_docs, llmjax.infer.generate, llmjax.train.run

for line in sys.stdin:
    module, args, out, err = json.loads(line)
    child = os.fork()
    if not child:
        code = 0
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = [module, *args]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
            if isinstance(e.code, str):
                print(e.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Mains:
    """`run("pretrain", "--config=...")`: what `python -m experiments.pretrain` does."""

    def __init__(self, folder: Path, devices: int = 1):
        self.folder, count = folder, "--xla_force_host_platform_device_count"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            # of a repeated flag the last one counts
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {count}={devices}",
            # tiny programs: they take longer to compile than to run
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, main: str, *args: str) -> Done:
        return self.module(f"experiments.{main}", *args)

    def module(self, name: str, *args: str) -> Done:
        """What `python -m NAME ARGS` does."""
        out, err = self.folder / "out", self.folder / "err"
        line = json.dumps([name, args, str(out), str(err)])
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return Done(code, out.read_text(), err.read_text())

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(timeout=30)
