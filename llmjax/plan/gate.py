"""Checks of many runs: each is lowered for topologies that it names, or compiled."""

import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections.abc import Collection, Mapping, Sequence

import jax

from llmjax.config import RunConfig, Scratch
from llmjax.plan.compiler import buffers, compile, platforms
from llmjax.plan.cost import topologies
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


def check(name: str, run: RunConfig, topology: str, compiled: bool) -> Verdict:
    """Lowers a run's step for a topology, and compiles it if `compiled`.

    For GPUs on a machine without cuDNN, attention is left to XLA.
    """
    jax.config.update("jax_platforms", "cpu")
    start = time.perf_counter()

    def verdict(fault: str, peak: int | None = None, capacity: int | None = None):
        seconds = time.perf_counter() - start
        return Verdict(name, topology, fault, seconds, peak, capacity)

    try:
        slices = 1 if topologies.of_gpus(topology) else run.layout.slices
        where = topologies.parse(topology, slices)
        lowered = compile.lower_step(run, where, cudnn=platforms.has_cudnn())
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
    runs: Mapping[str, RunConfig],
    fields: Sequence[str],
    lowered_only: Collection[tuple[str, str]],
    workers: int,
) -> list[Verdict]:
    """Checks runs by name in so many processes, the same step only once.

    Args:
      runs: by name.
      fields: of the layout that name topologies: "plan_topology", "plan_gpus".
      lowered_only: (name, field) of what is not compiled.
      workers: processes; the deepest models start first.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    first: dict[tuple[RunConfig, str], tuple[str, str]] = {}
    same: dict[tuple[str, str], tuple[str, str]] = {}
    for field in fields:
        for name, run in runs.items():
            topology = getattr(run.layout, field)
            if topology is None:
                fault = f"names no layout.{field}"
                verdicts[name, field] = Verdict(name, "-", fault, 0.0)
            else:
                step = _step_config(run), topology
                same[name, field] = first.setdefault(step, (name, field))
    order = sorted(first.values(), key=lambda key: -runs[key[0]].model.L)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        futures = {
            (name, field): pool.submit(
                check,
                name,
                runs[name],
                getattr(runs[name].layout, field),
                (name, field) not in lowered_only,
            )
            for name, field in order
        }
        done = {key: future.result() for key, future in futures.items()}
    for (name, field), key in same.items():
        verdicts[name, field] = dataclasses.replace(done[key], name=name)
    return [verdicts[name, field] for field in fields for name in runs]


def _step_config(run: RunConfig) -> RunConfig:
    """The run without the fields that its step does not depend on."""
    layout = dataclasses.replace(run.layout, plan_topology=None, plan_gpus=None)
    return dataclasses.replace(run, init=Scratch(), layout=layout)


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
    head = ("config", "topology", "", "peak a device", "capacity", "took")
    faults = [f"{v.name} on {v.topology}: {v.fault}" for v in verdicts if v.fault]
    return "\n".join([table(head, rows), *faults])
