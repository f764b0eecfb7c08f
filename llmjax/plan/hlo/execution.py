"""How often one step executes each instruction, and how many cycles that takes."""

import functools
import re

from llmjax.plan.hlo.module import Computation, HloModule, Instruction

_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')


@functools.lru_cache(maxsize=2)
def walk(module: HloModule) -> tuple[tuple[Instruction, str, int], ...]:
    """(instruction, its computation, executions per step), in scheduled order.

    A loop's body counts as often as the loop runs, every branch of a conditional once;
    fused and asynchronous computations are not entered.
    """
    executed: list[tuple[Instruction, str, int]] = []
    _walk(module, module.entry, 1, executed)
    return tuple(executed)


def _walk(module: HloModule, name: str, times: int, executed: list) -> None:
    for instruction in module.computations[name].values():
        executed.append((instruction, name, times))
        for callee in callees(instruction):
            trips = trip_count(module, name, instruction) or 1
            _walk(module, callee, times * trips, executed)


@functools.lru_cache(maxsize=2)
def cycles(module: HloModule) -> dict[str, int]:
    """Computation -> the compiler's cycles for one execution of it.

    Loops count with their trips, a conditional with its longest branch.
    """
    totals: dict[str, int] = {}
    _cycles(module, module.entry, totals)
    return totals


def callees(instruction: Instruction) -> tuple[str, ...]:
    """Computations that an instruction runs in place: body, called, branches."""
    if instruction.opcode == "while":
        names: tuple[str | None, ...] = (instruction.attribute("body"),)
    elif instruction.opcode == "call":
        names = (instruction.attribute("to_apply"),)
    else:
        names = instruction.branches if instruction.opcode == "conditional" else ()
    return tuple(x for x in names if x)


def _cycles(module: HloModule, name: str, totals: dict[str, int]) -> int:
    total = 0
    for instruction in module.computations[name].values():
        total += instruction.cycles or 0
        inner = [_cycles(module, x, totals) for x in callees(instruction)]
        if inner:
            trips = trip_count(module, name, instruction) or 1
            total += max(inner) * trips
    totals[name] = total
    return total


def trip_count(module: HloModule, computation: str, loop: Instruction) -> int | None:
    """How often a `while` runs its body; None where that can't be read off.

    The compiler notes it, or it follows from the condition `i < n`, the start of `i`
    and what the body adds to it. Any other instruction: 1.
    """
    if loop.opcode != "while":
        return 1
    noted = _TRIPS.search(loop.rest)
    if noted:
        return int(noted.group(1))
    comparison = _comparison(module, loop)
    if comparison is None:
        return None
    index, limit = comparison
    here = module.computations[computation]
    initial = here.get(loop.operands[0])
    start = None
    if initial is not None and initial.opcode == "tuple":
        start = _constant(here, initial.operands[index])
    step = _increment(module, loop.attribute("body") or "", index)
    return max(1, -(-(limit - (start or 0)) // (step or 1)))


def _comparison(module: HloModule, loop: Instruction) -> tuple[int, int] | None:
    """(index of the counter in the loop's state, limit) of `counter < limit`."""
    condition = module.computations[loop.attribute("condition") or ""]
    root = module.root(loop.attribute("condition") or "")
    sides = root.operands
    values = condition
    if root.opcode == "fusion":
        inner = module.computations[root.attribute("calls") or ""]
        root, outer = module.root(root.attribute("calls") or ""), root.operands
        values = {**inner, **condition}

        def from_outside(name: str) -> str:
            value = inner.get(name)
            if value is None or value.opcode != "parameter":
                return name
            return outer[int(value.operands[0])]

        sides = tuple(from_outside(x) for x in root.operands)
    if "direction=LT" not in root.rest or len(sides) < 2:
        return None
    counter = values.get(sides[0])
    limit = _constant(values, sides[1])
    index = re.search(r"index=(\d+)", counter.rest) if counter else None
    return (int(index.group(1)), limit) if index and limit is not None else None


def _increment(module: HloModule, name: str, index: int) -> int | None:
    """The constant that a loop's body adds to element `index` of its state."""
    body, root = module.computations[name], module.root(name)
    if root.opcode != "tuple":
        return None
    value = body.get(root.operands[index])
    while value is not None and value.opcode in ("copy", "bitcast"):
        value = body.get(value.operands[0])
    if value is None or value.opcode != "add":
        return None
    constants = [_constant(body, x) for x in value.operands]
    return next((c for c in constants if c is not None), None)


def _constant(computation: Computation, name: str) -> int | None:
    """The value of an integer constant, seen through copies; None of anything else."""
    value = computation.get(name)
    for _ in range(6):
        if value is None or value.opcode not in ("copy", "bitcast", "convert"):
            break
        value = computation.get(value.operands[0])
    if value is None or value.opcode != "constant":
        return None
    number = value.operands[0] if value.operands else ""
    return int(number) if re.fullmatch(r"-?\d+", number) else None
