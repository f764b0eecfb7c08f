"""Every config on the TPUs that it names: lowered, compiled, fitting, nothing copied.

    python -m experiments.plan_gate [--compile=quick|all|none] [--only=llama3] \
        [--workers=2]

"quick" compiles all but those that take more than two minutes (`SLOW`); these are only
lowered, and compiled by `tests/proofs/plan_compile.py`. Ends with code 1 where one of
them fails. Needs the TPU compiler (`pip install -e '.[tpu]'`) and no TPU.
"""

import concurrent.futures
import dataclasses
import importlib
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from experiments import cli
from llmjax import config as cfg
from llmjax.plan.compiler import buffers, compile
from llmjax.plan.report import duration, gib, table

COMPILE = flags.DEFINE_enum("compile", "quick", ["quick", "all", "none"], "Which.")
ONLY = flags.DEFINE_string("only", "", "Configs whose path holds this.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes.")

ROOT = Path(__file__).parents[1]
# Compiled in more than two minutes on two cores.
SLOW = (
    "configs/pretrain/llama2_70b.py",
    "configs/pretrain/llama3_405b.py",
    "configs/pretrain/llama3_70b.py",
    "configs/pretrain/llama3_8b.py",
    "configs/pretrain/mixtral_8x7b.py",
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """On one config; `fault` is "" where all is well."""

    config: str
    topology: str
    fault: str
    seconds: float
    peak: int | None = None  # bytes per chip; None: not compiled
    capacity: int | None = None


def paths(only: str = "") -> list[str]:
    """Every config, as `configs/pretrain/llama2_7b.py`."""
    files = sorted((ROOT / "configs").rglob("*.py"))
    names = [str(f.relative_to(ROOT)) for f in files if f.name != "__init__.py"]
    return [name for name in names if only in name]


def load(path: str) -> cfg.RunConfig:
    """The parsed config of a file."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return cfg.parse(module.get_config())


def judge(path: str, compiled: bool) -> Verdict:
    """Lowers a config for its topology, and compiles it if told."""
    jax.config.update("jax_platforms", "cpu")
    start = time.perf_counter()
    run = load(path)
    name = run.layout.plan_topology
    if name is None:
        return Verdict(path, "-", "names no layout.plan_topology", 0.0)

    def verdict(fault: str, peak: int | None = None, capacity: int | None = None):
        return Verdict(path, name, fault, time.perf_counter() - start, peak, capacity)

    try:
        step = compile.lower_step(run, name, run.layout.slices)
    except ValueError as e:
        return verdict(str(e))
    faults = buffers.replicated(step.program)
    if not compiled:
        return verdict("; ".join(faults))
    made = compile.compile_lowered(step)
    if not made.fits:
        faults.append(f"does not fit: {made.error}")
    return verdict("; ".join(faults), made.needed, made.available)


def judge_all(names: Sequence[str], slow: Sequence[str], workers: int) -> list[Verdict]:
    """Each of `names`, once for configs that are the same run; all but `slow` compiled.

    The longest start first.
    """
    first: dict[cfg.RunConfig, str] = {}
    alike = {name: first.setdefault(_compared(load(name)), name) for name in names}
    order = sorted(first.values(), key=lambda name: -load(name).model.L)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        running = {n: pool.submit(judge, n, n not in slow) for n in order}
        done = {n: future.result() for n, future in running.items()}
    return [dataclasses.replace(done[alike[n]], config=n) for n in names]


def _compared(run: cfg.RunConfig) -> cfg.RunConfig:
    """The run less what its step does not depend on."""
    return dataclasses.replace(run, init=cfg.Scratch())


def report(verdicts: Sequence[Verdict]) -> str:
    """A table of them."""
    rows = [
        (
            v.config,
            v.topology,
            "FAILED" if v.fault else "compiled" if v.peak is not None else "lowered",
            gib(v.peak),
            gib(v.capacity),
            duration(v.seconds),
        )
        for v in verdicts
    ]
    head = ("config", "topology", "", "peak a chip", "capacity", "took")
    faults = [f"{v.config} on {v.topology}: {v.fault}" for v in verdicts if v.fault]
    return "\n".join([table(head, rows), *faults])


def main() -> None:
    compile.require_compiler()
    names = paths(ONLY.value)
    if not names:
        raise ValueError(f"--only={ONLY.value}: no config's path holds it")
    slow = {"quick": SLOW, "all": (), "none": names}[COMPILE.value]
    verdicts = judge_all(names, slow, WORKERS.value)
    print(report(verdicts))
    sys.exit(any(v.fault for v in verdicts))


if __name__ == "__main__":
    cli.launch(main)
