"""Bytes that a step reads from HBM and writes to it, by its instructions' shapes."""

from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.module import HBM, Computation, HloModule, Instruction

# Opcodes that move nothing themselves.
_NO_TRAFFIC = {
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


def hbm_bytes(module: HloModule) -> int:
    """Bytes of one step on one device, summed over its instructions.

    Arrays in vector memory don't count. Where a slice of a larger array is read or
    written, only the slice counts. A Pallas kernel's operands and results count once,
    though it may read them again.
    """
    return sum(
        times * _bytes(module, module.computations[name], instruction)
        for instruction, name, times in walk(module)
    )


def _bytes(
    module: HloModule, computation: Computation, instruction: Instruction
) -> int:
    """Bytes that one execution reads and writes."""
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith("-done"):
        return 0
    operands = [computation[x] for x in instruction.operands if x in computation]
    if opcode.endswith("-start"):  # the tuple holds operands and results
        sides = [a for a in instruction.arrays if a.dims]
        small = min((a.bytes for a in sides), default=0)
        return sum(min(a.bytes, small) for a in sides[:2] if a.space == HBM)
    if opcode == "dynamic-slice":
        return 2 * _result_bytes(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _result_bytes(operands[1])
    if opcode != "fusion":
        return sum(map(_result_bytes, operands)) + _result_bytes(instruction)
    fused = module.computations[instruction.attribute("calls") or ""]
    read = sum(_fusion_reads(fused, i, x) for i, x in enumerate(operands))
    return read + _fusion_writes(fused, instruction)


def _result_bytes(instruction: Instruction) -> int:
    """Bytes of the result that lie in HBM."""
    return sum(a.bytes for a in instruction.arrays if a.space == HBM)


def _fusion_reads(fused: Computation, index: int, operand: Instruction) -> int:
    """Bytes that a fusion reads of an operand: all, or the slices that it takes."""
    if not _result_bytes(operand):
        return 0
    name = next(
        x.name
        for x in fused.values()
        if x.opcode == "parameter" and x.operands == (str(index),)
    )
    users = [x for x in fused.values() if name in x.operands]
    if users and all(x.opcode == "dynamic-slice" for x in users):
        return sum(a.bytes for x in users for a in x.arrays)
    if users and all(
        x.opcode == "dynamic-update-slice" and x.operands[0] == name for x in users
    ):
        return 0
    return _result_bytes(operand)


def _fusion_writes(fused: Computation, fusion: Instruction) -> int:
    """Bytes that a fusion writes: its result, or the slice that it updates in place."""
    root = next(x for x in fused.values() if x.root)
    while root.opcode == "bitcast" and root.operands[0] in fused:
        root = fused[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and _result_bytes(fusion):
        return sum(a.bytes for a in fused[root.operands[1]].arrays)
    return _result_bytes(fusion)
