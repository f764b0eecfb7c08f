"""Checks of many runs: each is lowered for the topology that it names, or compiled."""

import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections.abc import Collection, Mapping, Sequence

import jax

from llmjax.config import RunConfig, Scratch
from llmjax.plan.compiler import buffers, compile
from llmjax.plan.tables import duration, gib, table


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of one check; `fault` is "" where the run passes."""

    name: str
    topology: str
    fault: str
    seconds: float
    peak: int | None = None  # bytes per device; None: not compiled
    capacity: int | None = None


def check(name: str, run: RunConfig, compiled: bool) -> Verdict:
    """Lowers a run's step for its `layout.plan_topology`; compiles it if `compiled`."""
    jax.config.update("jax_platforms", "cpu")
    start = time.perf_counter()
    topology = run.layout.plan_topology
    if topology is None:
        return Verdict(name, "-", "names no layout.plan_topology", 0.0)

    def verdict(fault: str, peak: int | None = None, capacity: int | None = None):
        seconds = time.perf_counter() - start
        return Verdict(name, topology, fault, seconds, peak, capacity)

    try:
        lowered = compile.lower_step(run, topology, run.layout.slices)
    except ValueError as e:
        return verdict(str(e))
    faults = buffers.replicated(lowered.program)
    if not compiled:
        return verdict("; ".join(faults))
    step = compile.compile_lowered(lowered)
    if not step.fits:
        faults.append(f"does not fit: {step.error}")
    return verdict("; ".join(faults), step.needed, step.available)


def check_all(
    runs: Mapping[str, RunConfig], lowered_only: Collection[str], workers: int
) -> list[Verdict]:
    """Checks runs by name in so many processes, runs of the same step only once.

    All are compiled but those in `lowered_only`. The deepest models start first.
    """
    first_name: dict[RunConfig, str] = {}
    same_step = {
        name: first_name.setdefault(_step_config(run), name)
        for name, run in runs.items()
    }
    order = sorted(first_name.values(), key=lambda name: -runs[name].model.L)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        futures = {
            name: pool.submit(check, name, runs[name], name not in lowered_only)
            for name in order
        }
        verdicts = {name: future.result() for name, future in futures.items()}
    return [dataclasses.replace(verdicts[same_step[name]], name=name) for name in runs]


def _step_config(run: RunConfig) -> RunConfig:
    """The run without the fields that its step does not depend on."""
    return dataclasses.replace(run, init=Scratch())


def report(verdicts: Sequence[Verdict]) -> str:
    """A table of the verdicts, and a line for each fault."""
    rows = [
        (
            v.name,
            v.topology,
            "FAILED" if v.fault else "compiled" if v.peak is not None else "lowered",
            gib(v.peak),
            gib(v.capacity),
            duration(v.seconds),
        )
        for v in verdicts
    ]
    head = ("config", "topology", "", "peak a chip", "capacity", "took")
    faults = [f"{v.name} on {v.topology}: {v.fault}" for v in verdicts if v.fault]
    return "\n".join([table(head, rows), *faults])
