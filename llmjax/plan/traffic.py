"""Bytes that a step reads from and writes to HBM, by its instructions' shapes."""

from llmjax.plan.execution import walk
from llmjax.plan.hlo import HBM, Computation, Instruction, Program

# They move nothing themselves.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "opt-barrier",
    "partition-id",
}


def hbm_bytes(program: Program) -> int:
    """Of one step on one device: what every instruction reads and writes there.

    Arrays in vector memory don't count; of a slice that is read from or written into
    a larger array, the slice does. Pallas kernels count their operands and results
    once: what they read again is part of their own model.
    """
    return sum(
        times * _bytes(program, program.computations[name], instruction)
        for instruction, name, times in walk(program)
    )


def _bytes(program: Program, here: Computation, instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    operands = [here[x] for x in instruction.operands if x in here]
    if opcode.endswith("-start"):  # the tuple holds operands and results
        sides = [a for a in instruction.arrays if a.dims]
        small = min((a.bytes for a in sides), default=0)
        return sum(min(a.bytes, small) for a in sides[:2] if a.space == HBM)
    if opcode == "dynamic-slice":
        return 2 * _written(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _written(operands[1])
    if opcode != "fusion":
        return sum(map(_written, operands)) + _written(instruction)
    inside = program.computations[instruction.attribute("calls") or ""]
    read = sum(_read(inside, i, x) for i, x in enumerate(operands))
    return read + _fusion_written(inside, instruction)


def _written(instruction: Instruction) -> int:
    return sum(a.bytes for a in instruction.arrays if a.space == HBM)


def _read(inside: Computation, index: int, operand: Instruction) -> int:
    """What a fusion reads of its operand: all of it, or the slices that it takes."""
    if not _written(operand):
        return 0
    name = next(
        x.name
        for x in inside.values()
        if x.opcode == "parameter" and x.operands == (str(index),)
    )
    users = [x for x in inside.values() if name in x.operands]
    if users and all(x.opcode == "dynamic-slice" for x in users):
        return sum(a.bytes for x in users for a in x.arrays)
    if users and all(
        x.opcode == "dynamic-update-slice" and x.operands[0] == name for x in users
    ):
        return 0
    return _written(operand)


def _fusion_written(inside: Computation, fusion: Instruction) -> int:
    """A fusion's results, of updates in place only what is new."""
    root = next(x for x in inside.values() if x.root)
    while root.opcode == "bitcast" and root.operands[0] in inside:
        root = inside[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and _written(fusion):
        return sum(a.bytes for a in inside[root.operands[1]].arrays)
    return _written(fusion)
