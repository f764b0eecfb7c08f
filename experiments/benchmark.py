"""Times the whole optimizer step of a config on random tokens; prints one JSON line.

    python -m experiments.benchmark --config=configs/benchmark/llama_4l.py

`mfu` divides the FLOPs of `llmjax.train.metrics.flops.training_flops` (the full
attention square) by the median step and the matmul peak measured in this process,
before and after; `mfu_causal` counts half of the square for a causal model.
"""

import json
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli
from llmjax.config import RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.registry import make_task
from llmjax.train import setup
from llmjax.train.metrics import flops

STEPS = flags.DEFINE_integer("steps", 20, "Steps to time, after two to warm up.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Matmuls per shape for the peak.")


def without_packing(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows without the features that say nothing of full rows of one segment."""
    trivial = {"valid"} if np.all(batch.get("valid", 1)) else set()
    for name, ids_BT in batch.items():
        if name.endswith("segment_ids") and (ids_BT == ids_BT[:, :1]).all():
            trivial |= {name, name.removesuffix("segment_ids") + "positions"}
    return {name: x for name, x in batch.items() if name not in trivial}


def measure(config: RunConfig, steps: int, repeats: int) -> dict[str, Any]:
    """The benchmark's result: speed, FLOPs, memory and versions."""
    before, measured = flops.matmul_peak(repeats)
    task = make_task(config, PlainVocabulary(config.model.vocab_size))
    rows = without_packing(task.example_batch(config.data.batch_size))
    start = time.perf_counter()
    program = setup.build(config, task, rows)
    state = program.init()
    batch = program.place(rows)
    seconds = []
    with mesh_lib.use(program.mesh):
        state, out = program.step(state, batch)
        jax.block_until_ready(out)
        first = time.perf_counter() - start
        for _ in range(steps + 1):
            start = time.perf_counter()
            state, out = program.step(state, batch)
            jax.block_until_ready((state, out))
            seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]
    after, measured_after = flops.matmul_peak(repeats)
    peak = max(before, after)
    B, T = config.data.batch_size, config.data.seq_len
    full, causal = flops.training_flops(config.model, B * T, T, task.num_outputs)
    median = statistics.median(seconds)
    devices = program.mesh.size
    return {
        "tokens_per_second": B * T / median,
        "step_seconds": {"min": min(seconds), "median": median, "max": max(seconds)},
        "steps": steps,
        "flops": full,
        "flops_causal": causal,
        "mfu": full / median / peak / devices,
        "mfu_causal": causal / median / peak / devices,
        "peak_flops": peak,
        "peak_measured": {"before": measured, "after": measured_after},
        "peak_memory_bytes": flops.peak_memory_bytes(),
        "seconds_to_first_step": first,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }


def main() -> None:
    result = measure(cli.config(), STEPS.value, REPEATS.value)
    line = json.dumps(result)
    print(line)
    if cli.WORKDIR.value is not None:
        cli.write_result(cli.WORKDIR.value, line)


if __name__ == "__main__":
    cli.launch(main, required=("config",))
