"""Summary of a compiled step: estimated cycles, loops, Pallas kernels."""

import dataclasses
import re
from collections import Counter

from llmjax.plan.hlo.execution import cycles, trip_count, walk
from llmjax.plan.hlo.module import HloModule, Instruction


@dataclasses.dataclass(frozen=True)
class Loop:
    """A `while`; `cycles` counts all of its iterations in a step."""

    body: str
    trips: int | None  # None: not readable from the text, counted once
    cycles: int


@dataclasses.dataclass(frozen=True)
class CustomCall:
    """The calls of a Pallas kernel that agree in name, source line and shapes."""

    kernel: str  # "splash_mha_fwd_residuals"
    op_name: str
    source: str
    operands: tuple[str, ...]  # shapes in HLO's form: "bf16[4,32,2048,128]"
    results: tuple[str, ...]  # shapes likewise
    blocks: tuple[tuple[str, int], ...]  # splash attention's: ("block_q", 512), ...
    calls: int  # per step


@dataclasses.dataclass(frozen=True)
class Summary:
    """Numbers of one step on one device, from its compiled text.

    Attributes:
      estimated_cycles: the compiler's; it has no estimate for Pallas kernels and most
        collectives.
      pallas: the Pallas kernels that the step calls.
      loops: every `while`, inner ones too.
      largest: (op_name, source, opcode, cycles per step), most cycles first.
    """

    estimated_cycles: int
    pallas: tuple[CustomCall, ...]
    loops: tuple[Loop, ...]
    largest: tuple[tuple[str, str, str, int], ...]


def summarize(module: HloModule, largest: int = 20) -> Summary:
    """Sums up a compiled step; `largest` is how many of the costliest ops it lists."""
    kernels: Counter = Counter()
    places: Counter = Counter()
    loops = []
    for instruction, name, times in walk(module):
        place = instruction.op_name, instruction.location, instruction.opcode
        places[place] += (instruction.cycles or 0) * times
        if is_pallas(instruction):
            kernels[custom_call(module, name, instruction)] += times
        if instruction.opcode == "while":
            trips = trip_count(module, name, instruction)
            body = instruction.attribute("body") or ""
            loop_cycles = cycles(module)[body] * times * (trips or 1)
            loops.append(Loop(body, trips, loop_cycles))
    return Summary(
        estimated_cycles=cycles(module)[module.entry],
        pallas=tuple(dataclasses.replace(k, calls=n) for k, n in kernels.items()),
        loops=tuple(loops),
        largest=tuple((*k, n) for k, n in places.most_common(largest) if n),
    )


def is_pallas(instruction: Instruction) -> bool:
    """Whether the instruction calls a Pallas kernel."""
    return (
        instruction.opcode == "custom-call"
        and 'custom_call_target="tpu_custom_call"' in instruction.rest
    )


def custom_call(module: HloModule, computation: str, call: Instruction) -> CustomCall:
    """The call that one instruction makes, with `calls` = 1."""
    producers = module.computations[computation]
    operands = [
        str(shape)
        for name in call.operands
        if name in producers
        for shape in producers[name].arrays
    ]
    notes = re.search(r'"xprof_metadata":"\{(.*?)\}"', call.rest)
    blocks = re.findall(r'\\"(block_\w+)\\": (\d+)', notes.group(1) if notes else "")
    return CustomCall(
        kernel=re.sub(r"\.\d+(\.clone)?$", "", call.name),
        op_name=call.op_name,
        source=call.location,
        operands=tuple(operands),
        results=tuple(map(str, call.arrays)),
        blocks=tuple((name, int(size)) for name, size in blocks),
        calls=1,
    )
