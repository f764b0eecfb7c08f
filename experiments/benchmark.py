r"""Times the whole optimizer step of a config on random tokens; prints one JSON line.

    python -m experiments.benchmark --config=configs/benchmark/llama_4l.py \
        [--beside=plain]

With --beside=plain the step of a plain Flax loop of the same sizes
(`experiments.benchmark_plain`) runs in turns with it; `beside` then holds its seconds,
and the ratios: of tokens/s by the medians, and of the seconds to the first step.

`mfu` divides the FLOPs of `llmjax.train.metrics.flops.training_flops` (the full
attention square) by the median step and the matmul peak measured in this process,
before and after; `mfu_causal` counts half of the square for a causal model.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import benchmark_plain, cli
from llmjax.config import RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.registry import make_task
from llmjax.train import setup
from llmjax.train.metrics import flops

STEPS = flags.DEFINE_integer("steps", 20, "Steps to time, after two to warm up.")
BESIDE = flags.DEFINE_enum("beside", None, ["plain"], "What runs in turns with it.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Matmuls per shape for the peak.")


def without_packing(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows without the features that say nothing of full rows of one segment."""
    trivial = {"valid"} if np.all(batch.get("valid", 1)) else set()
    for name, ids_BT in batch.items():
        if name.endswith("segment_ids") and (ids_BT == ids_BT[:, :1]).all():
            trivial |= {name, name.removesuffix("segment_ids") + "positions"}
    return {name: x for name, x in batch.items() if name not in trivial}


@dataclasses.dataclass(eq=False)
class Contestant:
    """A step to time: `seconds` of each, and those until the first was done."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    state: Any
    batch: Any
    started: float  # `time.perf_counter()` before anything of it was built
    seconds: list[float] = dataclasses.field(default_factory=list)
    first: float = 0.0

    def run(self) -> None:
        """Takes one step and notes its time."""
        start = time.perf_counter()
        self.state, out = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, out))
        now = time.perf_counter()
        if self.first:
            self.seconds.append(now - start)
        else:
            self.first = now - self.started

    @property
    def timed(self) -> list[float]:
        """Seconds of the steps but the first of `seconds`, which warms up."""
        return self.seconds[1:]

    @property
    def median(self) -> float:
        """Seconds of the median of the timed steps."""
        return statistics.median(self.timed)


def plain(config: RunConfig, rows: dict[str, np.ndarray]) -> Contestant:
    """The plain loop's step, on the features that it reads."""
    start = time.perf_counter()
    names = {"tokens", "targets", "label"} & rows.keys()
    batch = jax.device_put({name: rows[name] for name in names})
    state, step = benchmark_plain.build(config, batch)
    return Contestant(step, state, batch, start)


def measure(
    config: RunConfig, steps: int, repeats: int, beside: bool = False
) -> dict[str, Any]:
    """The benchmark's result: speed, FLOPs, memory and versions.

    Args:
      config: the run.
      steps: to time.
      repeats: of each matmul that finds the peak.
      beside: whether the plain loop's step runs in turns with it.

    Raises:
      ValueError: see `benchmark_plain.check`, where it runs.
    """
    if beside:
        benchmark_plain.check(config)
    before, measured = flops.matmul_peak(repeats)
    task = make_task(config, PlainVocabulary(config.model.vocab_size))
    rows = without_packing(task.example_batch(config.data.batch_size))
    start = time.perf_counter()
    program = setup.build(config, task, rows)

    def step(state, batch):
        with mesh_lib.use(program.mesh):
            return program.step(state, batch)

    ours = Contestant(step, program.init(), program.place(rows), start)
    ours.run()
    contestants = [ours]
    if beside:
        other = plain(config, rows)
        other.run()
        contestants.append(other)
    for turn in range(steps + 1):
        for contestant in contestants[:: -1 if turn % 2 else 1]:
            contestant.run()
    after, measured_after = flops.matmul_peak(repeats)
    peak = max(before, after)
    B, T = config.data.batch_size, config.data.seq_len
    full, causal = flops.training_flops(config.model, B * T, T, task.num_outputs)
    devices = program.mesh.size
    result: dict[str, Any] = {
        "tokens_per_second": B * T / ours.median,
        "step_seconds": spread(ours.timed),
        "steps": steps,
        "flops": full,
        "flops_causal": causal,
        "mfu": full / ours.median / peak / devices,
        "mfu_causal": causal / ours.median / peak / devices,
        "peak_flops": peak,
        "peak_measured": {"before": measured, "after": measured_after},
        "peak_memory_bytes": flops.peak_memory_bytes(),
        "seconds_to_first_step": ours.first,
        "parameters": sum(x.size for x in jax.tree.leaves(ours.state.params)),
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }
    if beside:
        result["beside"] = {
            "step_seconds": spread(other.timed),
            "seconds_to_first_step": other.first,
            "parameters": sum(x.size for x in jax.tree.leaves(other.state.params)),
            "tokens_per_second_ratio": other.median / ours.median,
            "first_step_ratio": ours.first / other.first,
        }
    return result


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The shortest, the median and the longest."""
    return {
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
    }


def main() -> None:
    result = measure(
        cli.config(), STEPS.value, REPEATS.value, beside=BESIDE.value == "plain"
    )
    line = json.dumps(result)
    print(line)
    if cli.WORKDIR.value is not None:
        cli.write_result(cli.WORKDIR.value, line)


if __name__ == "__main__":
    cli.launch(main, required=("config",))
