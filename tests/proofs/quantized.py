"""int8 and fp8 training against bfloat16 on Python's documentation, three seeds.

    python -m experiments.prepare_data --config=configs/pretrain/python_docs.py
    python tests/proofs/quantized.py [--workdir=runs/quantized] [--steps=300]

A model of four layers of 128 learns the same batches from the same weights in bfloat16,
and with its layers' projections in int8 and in fp8, forward and backward. Prints the
8-bit dots of each program and the loss on held-out text; exits 1 where a mean differs
from bfloat16's by more than 1 % (int8) or 2 % (fp8), or a dot is missing. What is in
`workdir` is not trained again. On a CPU int8 is multiplied as such and added up in
int32; fp8 is emulated: rounded to 8 bits, multiplied in float32.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import ml_collections
from absl import logging

from configs.pretrain import python_docs
from llmjax import config as cfg
from llmjax.config import RunConfig
from llmjax.data.prepare import prepare
from llmjax.tasks.registry import make_task
from llmjax.train import run as run_lib
from llmjax.train import setup
from tests.models.dots import Dots, eight_bit

SEEDS = (0, 1, 2)
KINDS = ("none", "int8", "fp8")
TOLERANCE = {"int8": 0.01, "fp8": 0.02}
LAYERS, PROJECTIONS = 4, 7  # query, key, value, out, gate, up, down


def config(kind: str, seed: int, steps: int) -> RunConfig:
    """The quickstart's run, half as wide, of half its rows, in bfloat16 and `kind`."""
    run: ml_collections.ConfigDict = python_docs.get_config()
    run.model.d_model, run.model.d_ff = 128, 352
    run.data.batch_size = 4
    run.layout.precision.kind = "bfloat16"
    run.layout.quantization.kind = kind
    run.train.seed = run.data.shuffle_seed = seed
    run.train.steps = run.train.eval_every = run.train.checkpoint_every = steps
    parsed: RunConfig = cfg.parse(run)
    return parsed


def dots(run: RunConfig) -> tuple[Dots, Dots]:
    """Those of 8 bits in a step as it is lowered, and as it is compiled."""
    corpora = prepare.open_corpora(run.data)
    task = make_task(run, corpora[0][1].tokenizer)
    rows = run_lib.batches(run, task, corpora, run.data.train_split).batch(0)
    program = setup.build(run, task, rows)
    step: Any = program.step  # jitted
    lowered = step.lower(program.abstract, program.batch)
    hlo = lowered.compiler_ir("hlo").as_hlo_text()
    return eight_bit(hlo), eight_bit(lowered.compile().as_text())


def told(found: Dots, *, directed: bool) -> str:
    """10 forward s8 x s8, …; what is lowered does not say which way."""
    every = sorted(found.items(), reverse=True)
    parts = [(n, f"{way} " if directed else "", a, b) for (way, a, b), n in every]
    return ", ".join(f"{n} {way}{a} x {b}" for n, way, a, b in parts) or "none"


def complete(kind: str, lowered: Dots, compiled: Dots) -> bool:
    """Each projection is multiplied in 8 bits once forward and twice backward.

    What is lowered has one layer, which all call.
    """
    if kind == "int8":
        forward = compiled["forward", "s8", "s8"] / LAYERS
        backward = compiled["backward", "s8", "s8"] / LAYERS
    else:
        forward = lowered["forward", "f8e4m3fn", "f8e4m3fn"]
        backward = lowered["forward", "f8e5m2", "f8e4m3fn"]
    return (forward, backward) == (PROJECTIONS, 2 * PROJECTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/quantized")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    good = True
    print(f"jax {jax.__version__}, {jax.default_backend()}; dots of 8 bits in a step")
    print("(fp8 is emulated on a CPU: rounded to 8 bits, multiplied in float32)")
    for kind in TOLERANCE:
        lowered, compiled = dots(config(kind, 0, arguments.steps))
        good &= complete(kind, lowered, compiled)
        print(f"{kind:5} lowered, of one layer: {told(lowered, directed=False)}")
        print(f"{'':5} compiled: {told(compiled, directed=True)}")

    print(f"\nheld-out loss after {arguments.steps} steps, nats per token")
    print("seed      bf16      int8       fp8   int8-bf16    fp8-bf16", flush=True)
    losses: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def row(name: str, one: list[float]) -> None:
        base, *others = one
        differ = "".join(f"{x / base - 1:12.2%}" for x in others)
        print(f"{name:4}" + "".join(f"{x:10.4f}" for x in one) + differ, flush=True)

    for seed in SEEDS:
        for kind in KINDS:
            workdir = Path(arguments.workdir) / f"{kind}_seed{seed}"
            run = config(kind, seed, arguments.steps)
            result = run_lib.run(run, workdir.absolute(), progress=False).result
            losses[kind].append(result["eval"]["loss"])
        row(str(seed), [losses[kind][-1] for kind in KINDS])
    means = {kind: sum(x) / len(x) for kind, x in losses.items()}
    row("mean", list(means.values()))
    for kind, tolerance in TOLERANCE.items():
        apart = abs(means[kind] / means["none"] - 1)
        good &= apart <= tolerance
        print(f"{kind}: the means are {apart:.2%} apart; at most {tolerance:.0%}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
