"""Trains five models on one device and on every mesh of eight CPU devices.

    python tests/proofs/meshes.py [--model=decoder ...] [--mesh=ring ...] [--steps=10] \
        [--quick] [--float64]

Packed batches; the mixtures of experts in float64, so that rounding turns no choice,
the others in float32. For each mesh a row: leaves whose initial bits differ from one
device's, the largest relative difference of the losses of all steps, and that of the
gradients, taken from the step itself at equal weights (the first and the last ones of
one device) and relative to each leaf's largest value. Exits 1 above 1e-5 anywhere.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import optax

from llmjax.config import (
    Capacity,
    CausalLM,
    DataConfig,
    Dropless,
    Gather,
    Group,
    LayerSpec,
    MaskedLM,
    Mixture,
    ModelConfig,
    OptimizerConfig,
    Pipeline,
    Ring,
    RunConfig,
    SpanCorruption,
    TrainConfig,
    Ulysses,
    WarmupCosine,
)
from llmjax.data.batches import pipeline
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.parallel.axes import param_axes
from llmjax.parallel.mesh import make_mesh, use
from llmjax.tasks.registry import make_task
from llmjax.train import setup
from llmjax.train.optimizers import optimizers
from tests.float64 import float64, widened

TOLERANCE = 1e-5
WORDS, V = 256, 384  # V with the specials of all objectives
LAYERS = 8
ZERO_1 = {"optimizer_sharding": "data"}
RING, ULYSSES = {"context": Ring()}, {"context": Ulysses()}
SINGLE: dict[str, dict[str, Any]] = {
    "data": {"data": 8},
    "ZeRO-1": {"data": 8, **ZERO_1},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 8},
    "sequence, gather": {"sequence": 8},
    "sequence, ring": {"sequence": 8, **RING},
    "sequence, ulysses": {"sequence": 8, **ULYSSES},
    "pipeline": {"pipeline": Pipeline(8)},
    "expert": {"expert": 8},
}
MIXED: dict[str, dict[str, Any]] = {
    "fsdp 4 tensor 2": {"fsdp": 4, "tensor": 2},
    "data 2 fsdp 2 tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
    "data 2 fsdp 4, ZeRO-1": {"data": 2, "fsdp": 4, **ZERO_1},
    "data 4 tensor 2, ZeRO-1": {"data": 4, "tensor": 2, **ZERO_1},
    "fsdp 2 ring 2 tensor 2": {"fsdp": 2, "sequence": 2, "tensor": 2, **RING},
    "data 2 ulysses 2 tensor 2": {"data": 2, "sequence": 2, "tensor": 2, **ULYSSES},
    "fsdp 2 gather 4": {"fsdp": 2, "sequence": 4},
    "fsdp 2 tensor 4, parallel": {
        "fsdp": 2,
        "tensor": 4,
        "context": Gather(sequence_parallel=True),
    },
    "pipeline 2 data 2 tensor 2": {"pipeline": Pipeline(2), "data": 2, "tensor": 2},
    "pipeline 4 fsdp 2": {"pipeline": Pipeline(4), "fsdp": 2},
    "pipeline 2 x 2 fsdp 2 ring 2": {
        "pipeline": Pipeline(2, rounds=2),
        "fsdp": 2,
        "sequence": 2,
        **RING,
    },
    "expert 4 data 2": {"expert": 4, "data": 2},
    "expert 2 fsdp 2 tensor 2": {"expert": 2, "fsdp": 2, "tensor": 2},
    "expert 2 fsdp 2 ring 2": {"expert": 2, "fsdp": 2, "sequence": 2, **RING},
    "pipeline 2 expert 2 tensor 2": {"pipeline": Pipeline(2), "expert": 2, "tensor": 2},
}
MODELS = ("encoder", "decoder", "encoder_decoder", "capacity", "dropless")


def config(name: str, steps: int) -> RunConfig:
    """Eight layers of width 32 and two kinds of tasks; packed rows; AdamW."""
    model: dict[str, Any] = {}
    task: Any = CausalLM()
    if name.startswith("encoder"):
        model["architecture"] = name
        task = MaskedLM() if name == "encoder" else SpanCorruption()
    if name in ("capacity", "dropless"):
        dispatch = Capacity(1.25) if name == "capacity" else Dropless()
        mlp = Mixture(8, 2, 32, 16, dispatch=dispatch, z_loss=1e-3)
        model["groups"] = (Group(LAYERS, (LayerSpec(mlp=mlp),)),)
    return RunConfig(
        model=ModelConfig(
            vocab_size=V,
            d_model=32,
            d_ff=64,
            num_layers=LAYERS,
            num_heads=8,
            **model,
        ),
        task=task,
        data=DataConfig(
            batch_size=16,
            seq_len=64,
            packing="chunk" if name == "encoder_decoder" else "concat",
            prefetch=0,
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, schedule=WarmupCosine(warmup_steps=3)
        ),
        train=TrainConfig(steps=steps),
    )


def batches(run: RunConfig) -> pipeline.Pipeline:
    """Documents of Zipf's frequencies, of 5 to 60 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 60, 2000)
    texts = [np.minimum(rng.zipf(1.3, n) + 2, WORDS - 1) for n in lengths]
    words = PlainVocabulary(WORDS)
    source = from_documents(texts, [0] * len(texts), words.token_bytes)
    task = make_task(run, words)
    return pipeline.Pipeline(source, task.features, run.data, task.length)


def keeping() -> optax.GradientTransformation:
    """Changes nothing; its state are the gradients of the last update."""

    def init(params):
        return jax.tree.map(jax.numpy.zeros_like, params)

    return optax.GradientTransformation(init, lambda g, _, params=None: (g, g))


def build(run: RunConfig, fields: dict[str, Any], devices: int) -> setup.Program:
    """The program on a mesh of so many devices, which keeps its gradients."""
    layout = dataclasses.replace(run.layout, **{"data": 1, **fields})
    run = dataclasses.replace(run, layout=layout)
    run = widened(run) if jax.config.read("jax_enable_x64") else run
    task = make_task(run, PlainVocabulary(WORDS))
    example = batches(run).batch(0)
    axes = param_axes(task.model(run.model, run.layout), example)[1]
    optimizer = optimizers.make(run.optimizer, run.train.steps, axes)
    return setup.build(
        run,
        task,
        example,
        optimizer=optax.chain(keeping(), optimizer),
        mesh=make_mesh(run.layout, jax.devices()[:devices]),
    )


@dataclasses.dataclass
class Run:
    """What one mesh gave, on the host."""

    initial: Any
    final: Any
    losses: np.ndarray
    gradients: list[Any]


def train(program: setup.Program, rows: list[Any], last: Any = None) -> Run:
    """All steps, and one more at the weights `last` (None: its own last ones)."""
    losses, gradients = [], []
    state = program.init()
    initial = jax.device_get(state.params)

    def step(state, batch):
        state, (metrics, _) = program.step(state, program.place(batch))
        total, count = jax.device_get(metrics["loss"])
        losses.append(float(total) / float(count))
        return state

    with use(program.mesh):
        for batch in rows:
            state = step(state, batch)
            if len(losses) == 1:
                gradients.append(jax.device_get(state.opt_state[0]))
        final = jax.device_get(state.params)
        params = jax.device_put(
            final if last is None else last, program.shardings.params
        )
        state = step(dataclasses.replace(state, params=params), rows[0])
    gradients.append(jax.device_get(state.opt_state[0]))
    return Run(initial, final, np.array(losses[:-1]), gradients)


def compare(run: Run, one: Run) -> tuple[int, float, float]:
    """Leaves of other initial bits; largest differences of losses and of gradients."""

    def largest(a, b):
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))

    pairs = zip(jax.tree.leaves(run.initial), jax.tree.leaves(one.initial), strict=True)
    other = sum(a.tobytes() != b.tobytes() for a, b in pairs)
    losses = float(np.max(np.abs(run.losses - one.losses) / one.losses))
    differences = jax.tree.map(largest, run.gradients, one.gradients)
    return other, losses, max(jax.tree.leaves(differences))


def meshes(model: str, only: list[str]) -> dict[str, dict[str, Any]]:
    """Those of this model: without experts no mesh of theirs."""
    found: dict[str, dict[str, Any]] = SINGLE | MIXED
    if model not in ("capacity", "dropless"):
        found = {name: fields for name, fields in found.items() if "expert" not in name}
    return {
        name: fields
        for name, fields in found.items()
        if not only or any(part in name for part in only)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--model", action="append", choices=MODELS, default=[])
    parser.add_argument("--mesh", action="append", default=[], help="part of a name")
    parser.add_argument("--float64", action="store_true", help="whatever the model")
    parser.add_argument("--quick", action="store_true", help="XLA optimises little")
    args = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", args.quick)
    print(f"{'mesh':30} {'model':16} {'bits':>5} {'losses':>9} {'gradients':>9}")
    good = True
    for model in args.model or MODELS:
        run = config(model, args.steps)
        mixture = model in ("capacity", "dropless")
        with float64() if mixture or args.float64 else contextlib.nullcontext():
            data = batches(run)
            rows = [data.batch(step) for step in range(args.steps)]
            one = train(build(run, {}, 1), rows)
            assert one.losses[-1] < one.losses[0], one.losses
            for name, fields in meshes(model, args.mesh).items():
                here = train(build(run, fields, 8), rows, one.final)
                bits, losses, gradients = compare(here, one)
                within = bits == 0 and max(losses, gradients) <= TOLERANCE
                good &= within
                text = f"{name:30} {model:16} {bits:5} {losses:9.1e} {gradients:9.1e}"
                print(text + ("" if within else "  NOT THE SAME"), flush=True)
                jax.clear_caches()
    if not good:
        sys.exit("\nNOT the same")
    print(f"\nthe same, to {TOLERANCE:g}")


if __name__ == "__main__":
    main()
