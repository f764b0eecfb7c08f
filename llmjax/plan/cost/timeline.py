"""Simulation of a step's schedule: which transfers compute hides, and which not.

The compiler fixes the order of the instructions. How long each computes is the
machine's to say. A transfer runs beside the instructions after its start, behind
earlier transfers on the same links; its done waits until it has ended.
"""

import collections
import dataclasses
import math
from collections.abc import Callable

from llmjax.plan.hlo.collectives import Collective
from llmjax.plan.hlo.execution import callees, trip_count
from llmjax.plan.hlo.module import HloModule, Instruction


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Seconds of one step on one device.

    Attributes:
      compute: instructions of the compiler.
      kernels: Pallas kernels and fused attention.
      exposed: waiting for transfers.
      waits: `exposed` by the (kind, axis, network) of the transfers.
    """

    compute: float
    kernels: float
    exposed: float
    waits: dict[tuple[str, str, str], float]

    @property
    def total(self) -> float:
        """The whole step."""
        return self.compute + self.kernels + self.exposed


def play(
    module: HloModule,
    transfers: tuple[Collective, ...],
    seconds: Callable[[Collective], float],
    busy_links: Callable[[Collective], frozenset],
    compute_seconds: Callable[[str, Instruction], float],
    kernel_seconds: dict[str, float],
    slowdown: float = 0.0,
) -> Timeline:
    """Simulates the schedule once.

    Args:
      module: the compiled step.
      transfers: its transfers.
      seconds: time of one transfer, alone on its links.
      busy_links: links that a transfer uses; transfers that share one queue on it.
      compute_seconds: time of an instruction of a computation, without loops' bodies.
      kernel_seconds: name of an instruction that calls a kernel -> its seconds.
      slowdown: by how much longer an instruction takes while a transfer between
        devices runs beside it.
    """
    starts: dict[tuple[str, str], list[Collective]] = collections.defaultdict(list)
    for t in transfers:
        starts[t.computation, t.start].append(t)
    timelines: dict[str, Timeline] = {}

    def computation(name: str) -> Timeline:
        if name not in timelines:
            simulation = _Simulation(
                starts, seconds, busy_links, compute_seconds, kernel_seconds, slowdown
            )
            timelines[name] = simulation.run(module, name, computation)
        return timelines[name]

    return computation(module.entry)


class _Simulation:
    """One computation, which begins with all links free."""

    def __init__(
        self, starts, seconds, busy_links, compute_seconds, kernel_seconds, slowdown
    ):
        self.starts = starts
        self.seconds = seconds
        self.busy_links = busy_links
        self.compute_seconds = compute_seconds
        self.kernel_seconds = kernel_seconds
        self.slowdown = slowdown
        self.now = self.compute = self.kernels = 0.0
        self.free_at: dict[object, float] = collections.defaultdict(float)
        self.pending: dict[str, list[tuple[float, Collective]]] = (
            collections.defaultdict(list)
        )
        self.waits: dict[tuple[str, str, str], float] = collections.defaultdict(float)

    def run(self, module: HloModule, name: str, computation) -> Timeline:
        for instruction in module.computations[name].values():
            for transfer in self.starts.get((name, instruction.name), ()):
                self._start(transfer)
            self._execute(name, instruction)
            inner = [computation(x) for x in callees(instruction)]
            if inner:
                trips = trip_count(module, name, instruction) or 1
                self._execute_inner(max(inner, key=lambda x: x.total), trips)
            for end, transfer in self.pending.pop(instruction.name, ()):
                self._wait(end, transfer)
        exposed = math.fsum(self.waits.values())
        return Timeline(self.compute, self.kernels, exposed, dict(self.waits))

    def _start(self, transfer: Collective) -> None:
        links = self.busy_links(transfer)
        begin = max([self.now, *(self.free_at[x] for x in links)])
        end = begin + self.seconds(transfer)
        self.free_at.update(dict.fromkeys(links, end))
        self.pending[transfer.done].append((end, transfer))

    def _execute(self, name: str, instruction: Instruction) -> None:
        compute = self._beside(self.compute_seconds(name, instruction))
        kernel = self._beside(self.kernel_seconds.get(instruction.name, 0.0))
        self.compute += compute
        self.kernels += kernel
        self.now += compute + kernel

    def _beside(self, seconds: float) -> float:
        """Time of so much work, the longer the more of it runs beside a transfer."""
        ends = (end for link, end in self.free_at.items() if link != "host")
        busy = max(ends, default=0.0) - self.now
        if not self.slowdown or busy <= 0:
            return seconds
        slow = min(seconds * (1 + self.slowdown), busy)
        return slow + seconds - slow / (1 + self.slowdown)

    def _wait(self, end: float, transfer: Collective) -> None:
        if end > self.now:
            key = transfer.kind, transfer.axis, transfer.network
            self.waits[key] += end - self.now
            self.now = end

    def _execute_inner(self, inner: Timeline, times: int) -> None:
        self.compute += inner.compute * times
        self.kernels += inner.kernels * times
        self.now += inner.total * times
        for key, seconds in inner.waits.items():
            self.waits[key] += seconds * times
