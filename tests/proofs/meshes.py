"""Trains one config on four meshes of eight CPU devices and compares.

    python tests/proofs/meshes.py [--steps=10]

Prints the initial bits' agreement, the losses side by side with their largest relative
difference (at most 1e-5), and the losses of runs that were saved on one mesh at half
the way and went on on another. Exits 1 where anything differs by more.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
from absl import logging

from llmjax.config import (
    BlockedAttention,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    WarmupCosine,
)
from llmjax.data.pipeline import Pipeline
from llmjax.data.tokens import from_documents
from llmjax.data.vocabulary import PlainVocabulary
from llmjax.parallel.mesh import make_mesh
from llmjax.tasks.registry import make_task
from llmjax.train import loop, setup, writers

TOLERANCE = 1e-5
V = 2048
LAYOUTS = {
    "1 device": (1, {"data": 1}),
    "8 data": (8, {"data": 8}),
    "8 fsdp": (8, {"data": 1, "fsdp": 8}),
    "4 fsdp x 2 tensor": (8, {"data": 1, "fsdp": 4, "tensor": 2}),
}
MOVES = (("1 device", "4 fsdp x 2 tensor"), ("8 fsdp", "8 data"))


class Half:
    """Batches that end after `stop` steps."""

    def __init__(self, batches: Pipeline, stop: int):
        self.batches, self.stop = batches, stop

    def __getattr__(self, name):
        return getattr(self.batches, name)

    def prefetch(self, start, stop, *process):
        return self.batches.prefetch(start, min(stop, self.stop), *process)


def config(steps: int) -> RunConfig:
    """Four layers of 128, a large batch of packed rows, AdamW with an average."""
    return RunConfig(
        model=ModelConfig(
            vocab_size=V, d_model=128, d_ff=352, num_layers=4, num_heads=4
        ),
        data=DataConfig(batch_size=16, seq_len=128),
        layout=LayoutConfig(attention=BlockedAttention(64), loss_block=512),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule=WarmupCosine(warmup_steps=3), ema=0.9
        ),
        train=TrainConfig(
            steps=steps, log_every=1, checkpoint_every=max(steps // 2, 1)
        ),
    )


def batches(run: RunConfig) -> Pipeline:
    """Documents of Zipf's frequencies, of 10 to 400 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 400, 500)
    texts = [np.minimum(rng.zipf(1.3, n) + 2, V - 1) for n in lengths]
    source = from_documents(texts, [0] * len(texts), PlainVocabulary(V).token_bytes)
    task = make_task(run, PlainVocabulary(V))
    return Pipeline(source, task.features, run.data, task.length)


def build(run: RunConfig, name: str) -> setup.Program:
    """The program on the mesh of that name."""
    devices, sizes = LAYOUTS[name]
    layout = dataclasses.replace(run.layout, **sizes)
    run = dataclasses.replace(run, layout=layout)
    mesh = make_mesh(layout, jax.devices()[:devices])
    return setup.build(
        run, make_task(run, PlainVocabulary(V)), batches(run).batch(0), mesh=mesh
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    run = config(parser.parse_args().steps)
    logging.set_verbosity(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="meshes"))
    train = batches(run)
    programs = {name: build(run, name) for name in LAYOUTS}
    good = True

    first, *others = [jax.device_get(p.init()) for p in programs.values()]
    for name, other in zip(list(LAYOUTS)[1:], others, strict=True):
        same = [
            a.tobytes() == b.tobytes()
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
        ]
        print(f"initial bits on {name}: {sum(same)} of {len(same)} leaves the same")
        good &= all(same)

    losses = {}

    def fit(name: str, workdir: Path, data) -> list[float]:
        loop.fit(programs[name], data, None, workdir, progress=False)
        return [r["train/loss"] for r in writers.read(workdir)]

    for name in LAYOUTS:
        losses[name] = fit(name, folder / name, train)
    half = run.train.checkpoint_every
    for here, there in MOVES:
        workdir = folder / f"{here} to {there}"
        fit(here, workdir, Half(train, half))
        losses[f"{here} > {there}"] = fit(there, workdir, train)

    names = list(losses)
    print(f"\nloss of each step (those that moved: at step {half})")
    print("step  " + "  ".join(f"{n:>28}" for n in names))
    for i in range(run.train.steps):
        print(f"{i + 1:4}  " + "  ".join(f"{losses[n][i]:28.7f}" for n in names))
    want = np.array(losses["1 device"])
    print()
    for name in names[1:]:
        worst = float(np.max(np.abs(np.array(losses[name]) - want) / want))
        print(f"{name:28} largest relative difference {worst:.1e}")
        good &= worst <= TOLERANCE
    if not good:
        sys.exit("\nNOT the same")
    print(f"\nthe same, to {TOLERANCE:g}")


if __name__ == "__main__":
    main()
