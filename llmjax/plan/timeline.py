"""The step's schedule played through: what compute hides, and what waits.

The compiler's schedule is a fixed order of instructions. Compute takes the compiler's
cycles, a Pallas kernel its model's seconds; a transfer that something starts runs
beside what follows until its done needs it, after those before it on the same links.
"""

import collections
import dataclasses
import math
from collections.abc import Callable

from llmjax.plan.collectives import Collective
from llmjax.plan.execution import callees, trip_count
from llmjax.plan.hlo import Instruction, Program


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Seconds of one step on one device; total = compute + kernels + exposed.

    Attributes:
      waits: seconds of `exposed` by (kind, axis, network) of what was waited for.
    """

    compute: float
    kernels: float
    exposed: float
    waits: dict[tuple[str, str, str], float]

    @property
    def total(self) -> float:
        """Seconds from the step's first instruction to its last."""
        return self.compute + self.kernels + self.exposed


def play(
    program: Program,
    transfers: tuple[Collective, ...],
    seconds: Callable[[Collective], float],
    channel: Callable[[Collective], frozenset],
    kernel_seconds: dict[str, float],
    hertz: float,
) -> Timeline:
    """Runs the schedule once.

    Args:
      program: the compiled step.
      transfers: its transfers.
      seconds: of one transfer alone.
      channel: the links of a transfer; those that share one follow each other.
      kernel_seconds: by name of the instruction that calls a kernel.
      hertz: of the compiler's cycles.
    """
    starts: dict[tuple[str, str], list[Collective]] = collections.defaultdict(list)
    for t in transfers:
        starts[t.computation, t.start].append(t)
    known: dict[str, Timeline] = {}

    def computation(name: str) -> Timeline:
        if name not in known:
            known[name] = _Run(starts, seconds, channel, kernel_seconds, hertz).run(
                program, name, computation
            )
        return known[name]

    return computation(program.entry)


class _Run:
    """One computation, with links that are free when it begins."""

    def __init__(self, starts, seconds, channel, kernel_seconds, hertz):
        self.starts = starts
        self.seconds = seconds
        self.channel = channel
        self.kernel_seconds = kernel_seconds
        self.hertz = hertz
        self.now = self.compute = self.kernels = 0.0
        self.free: dict[object, float] = collections.defaultdict(float)
        self.pending: dict[str, list[tuple[float, Collective]]] = (
            collections.defaultdict(list)
        )
        self.waits: dict[tuple[str, str, str], float] = collections.defaultdict(float)

    def run(self, program: Program, name: str, computation) -> Timeline:
        for instruction in program.computations[name].values():
            for transfer in self.starts.get((name, instruction.name), ()):
                self._start(transfer)
            self._execute(instruction)
            inner = [computation(x) for x in callees(instruction)]
            if inner:
                trips = trip_count(program, name, instruction) or 1
                self._add(max(inner, key=lambda x: x.total), trips)
            for end, transfer in self.pending.pop(instruction.name, ()):
                self._wait(end, transfer)
        exposed = math.fsum(self.waits.values())
        return Timeline(self.compute, self.kernels, exposed, dict(self.waits))

    def _start(self, transfer: Collective) -> None:
        links = self.channel(transfer)
        begin = max([self.now, *(self.free[x] for x in links)])
        end = begin + self.seconds(transfer)
        self.free.update(dict.fromkeys(links, end))
        self.pending[transfer.done].append((end, transfer))

    def _execute(self, instruction: Instruction) -> None:
        cycles = (instruction.cycles or 0) / self.hertz
        kernel = self.kernel_seconds.get(instruction.name, 0.0)
        self.compute += cycles
        self.kernels += kernel
        self.now += cycles + kernel

    def _wait(self, end: float, transfer: Collective) -> None:
        if end > self.now:
            key = transfer.kind, transfer.axis, transfer.network
            self.waits[key] += end - self.now
            self.now = end

    def _add(self, inner: Timeline, times: int) -> None:
        self.compute += inner.compute * times
        self.kernels += inner.kernels * times
        self.now += inner.total * times
        for key, seconds in inner.waits.items():
            self.waits[key] += seconds * times
