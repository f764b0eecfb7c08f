"""The compiler's own numbers of one step: cycles, loops, kernels."""

import dataclasses
import re
from collections import Counter

from llmjax.plan.execution import cycles, trip_count, walk
from llmjax.plan.hlo import Instruction, Program


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while: `cycles` are of all its executions in a step."""

    body: str
    trips: int | None  # None: not understood, counted once
    cycles: int


@dataclasses.dataclass(frozen=True)
class CustomCall:
    """A Pallas kernel's calls, alike in name, place and shapes."""

    kernel: str  # "splash_mha_fwd_residuals"
    op_name: str
    source: str
    operands: tuple[str, ...]  # shapes as in HLO: "bf16[4,32,2048,128]"
    results: tuple[str, ...]
    blocks: tuple[tuple[str, int], ...]  # of splash attention: ("block_q", 512), ...
    calls: int  # per step


@dataclasses.dataclass(frozen=True)
class Summary:
    """The compiler's own numbers of one step on one device.

    Attributes:
      estimated_cycles: without Pallas kernels and most collectives, which have none.
      pallas: kernels written outside the compiler.
      loops: whiles, inner ones too.
      largest: (op_name, source, opcode, cycles per step), most cycles first.
    """

    estimated_cycles: int
    pallas: tuple[CustomCall, ...]
    loops: tuple[Loop, ...]
    largest: tuple[tuple[str, str, str, int], ...]


def summarize(program: Program, largest: int = 20) -> Summary:
    """The compiler's own numbers of one step."""
    kernels: Counter = Counter()
    places: Counter = Counter()
    loops = []
    for instruction, name, times in walk(program):
        place = instruction.op_name, instruction.location, instruction.opcode
        places[place] += (instruction.cycles or 0) * times
        if is_pallas(instruction):
            kernels[custom_call(program, name, instruction)] += times
        if instruction.opcode == "while":
            trips = trip_count(program, name, instruction)
            body = instruction.attribute("body") or ""
            inside = cycles(program)[body] * times * (trips or 1)
            loops.append(Loop(body, trips, inside))
    return Summary(
        estimated_cycles=cycles(program)[program.entry],
        pallas=tuple(dataclasses.replace(k, calls=n) for k, n in kernels.items()),
        loops=tuple(loops),
        largest=tuple((*k, n) for k, n in places.most_common(largest) if n),
    )


def is_pallas(instruction: Instruction) -> bool:
    """Whether the instruction calls a kernel written outside the compiler."""
    return (
        instruction.opcode == "custom-call"
        and 'custom_call_target="tpu_custom_call"' in instruction.rest
    )


def custom_call(program: Program, computation: str, call: Instruction) -> CustomCall:
    """A kernel's call, counted once."""
    here = program.computations[computation]
    operands = [str(s) for x in call.operands if x in here for s in here[x].arrays]
    sizes = re.search(r'"xprof_metadata":"\{(.*?)\}"', call.rest)
    blocks = re.findall(r'\\"(block_\w+)\\": (\d+)', sizes.group(1) if sizes else "")
    return CustomCall(
        kernel=re.sub(r"\.\d+(\.clone)?$", "", call.name),
        op_name=call.op_name,
        source=call.location,
        operands=tuple(operands),
        results=tuple(map(str, call.arrays)),
        blocks=tuple((name, int(size)) for name, size in blocks),
        calls=1,
    )
