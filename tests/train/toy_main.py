"""The toy run as a command, for tests that start several processes of it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import cli
from llmjax.train import loop
from tests.train import toy

ROOT = Path(__file__).parents[2]
LAYOUT = flags.DEFINE_list("layout", [], "Sizes of the mesh: fsdp=2,tensor=2.")
LOSE = flags.DEFINE_string("lose", None, "k:n, process k kills itself at step n.")
SIGNAL = flags.DEFINE_string("signal", "SIGKILL", "By which signal.")


def main() -> dict[str, Any]:
    jax.config.update("jax_disable_most_optimizations", True)
    sizes = {a: int(n) for a, n in (part.split("=") for part in LAYOUT.value)}
    run = toy.change(toy.NOISY, layout=sizes)
    train = toy.batches(run)
    held_out = toy.batches(run, documents=9, seed=1)
    rank, step = (LOSE.value or "-1:0").split(":")
    if int(rank) == jax.process_index():
        train = toy.Interrupted(train, int(step), kill)
    program = toy.program(run, jax.device_count())
    return loop.fit(program, train, held_out, cli.WORKDIR.value, progress=False)[1]


def kill() -> None:
    os.kill(os.getpid(), signal.Signals[SIGNAL.value])
    time.sleep(2)  # ten toy steps may else be over before the others hear of it


if __name__ == "__main__":
    cli.launch(main, required=("workdir",))
