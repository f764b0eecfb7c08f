"""Bytes that a step reads from HBM and writes to it, by its instructions' shapes."""

import math

from llmjax.plan.hlo.execution import walk
from llmjax.plan.hlo.module import (
    HBM,
    ArrayShape,
    Computation,
    HloModule,
    Instruction,
)

# Opcodes that move nothing themselves.
NO_TRAFFIC = {
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


# Opcodes that only look at an array in another way, inside of a fusion.
_VIEWS = {"bitcast", "convert", "reshape", "copy"}
# Opcodes that read only a part of their first operand: on TPUs, whose tiles come whole
# from memory, and on GPUs.
TILED_PARTS = frozenset({"dynamic-slice"})
PARTS = frozenset({"dynamic-slice", "slice", "gather"})


def hbm_bytes(module: HloModule, parts: frozenset[str] = TILED_PARTS) -> int:
    """Bytes of one step on one device, summed over its instructions.

    Arrays in vector memory don't count. Where a slice of a larger array is read (by an
    opcode of `parts`) or written, only the slice counts. A kernel's operands and
    results count once, though it may read them again.
    """
    return sum(
        times * instruction_bytes(module, module.computations[name], instruction, parts)
        for instruction, name, times in walk(module)
    )


def instruction_bytes(
    module: HloModule,
    computation: Computation,
    instruction: Instruction,
    parts: frozenset[str] = PARTS,
) -> int:
    """Bytes that one execution reads and writes."""
    opcode = instruction.opcode
    if opcode in NO_TRAFFIC or opcode.endswith("-done"):
        return 0
    operands = [computation[x] for x in instruction.operands if x in computation]
    if opcode in ("fusion", "fusion-start"):
        fused = module.computations[instruction.attribute("calls") or ""]
        read = sum(_fusion_reads(fused, i, x, parts) for i, x in enumerate(operands))
        return read + _fusion_writes(fused, instruction)
    if opcode.endswith("-start"):  # the tuple holds operands and results
        sides = [a for a in instruction.arrays if a.dims]
        small = min((a.bytes for a in sides), default=0)
        return sum(min(a.bytes, small) for a in sides[:2] if a.space == HBM)
    if opcode in parts:
        return 2 * _result_bytes(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _result_bytes(operands[1])
    return sum(map(_result_bytes, operands)) + _result_bytes(instruction)


def _result_bytes(instruction: Instruction) -> int:
    """Bytes of the result that lie in HBM."""
    return sum(a.bytes for a in instruction.arrays if a.space == HBM)


def _fusion_reads(
    fused: Computation, index: int, operand: Instruction, parts: frozenset[str]
) -> int:
    """Bytes that a fusion reads of an operand: all, or the slices that it takes."""
    whole = _result_bytes(operand)
    if not whole or len(operand.arrays) != 1:
        return whole
    name = next(
        x.name
        for x in fused.values()
        if x.opcode == "parameter" and x.operands == (str(index),)
    )
    elements = _elements_read(fused, name, parts)
    count = math.prod(operand.arrays[0].dims)
    if elements is None or elements >= count:
        return whole
    return elements * whole // count


def _elements_read(fused: Computation, name: str, parts: frozenset[str]) -> int | None:
    """Elements that the users of a value take of it; None: all."""
    total = 0
    users = [x for x in fused.values() if name in x.operands]
    for user in users:
        first = user.operands[0] == name and name not in user.operands[1:]
        if first and user.opcode in parts:
            total += sum(math.prod(a.dims) for a in user.arrays)
        elif first and user.opcode == "dynamic-update-slice":
            continue  # in place
        elif user.opcode in _VIEWS and not user.root:
            inner = _elements_read(fused, user.name, parts)
            if inner is None:
                return None
            total += inner
        else:
            return None
    return total if users else None


def _fusion_writes(fused: Computation, fusion: Instruction) -> int:
    """Bytes that a fusion writes: its results, or the slices that it updates."""
    root = next(x for x in fused.values() if x.root)
    arrays = fusion.arrays if fusion.opcode == "fusion" else root.arrays
    if root.opcode != "tuple":
        return _written(fused, root, arrays)
    if len(arrays) != len(root.operands):
        return sum(a.bytes for a in arrays if a.space == HBM)
    return sum(
        _written(fused, fused[name], (array,))
        for name, array in zip(root.operands, arrays, strict=True)
    )


def _written(
    fused: Computation, root: Instruction, arrays: tuple[ArrayShape, ...]
) -> int:
    """Bytes written of one result."""
    whole = sum(a.bytes for a in arrays if a.space == HBM)
    while root.opcode == "bitcast" and root.operands[0] in fused:
        root = fused[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and whole:
        return sum(a.bytes for a in fused[root.operands[1]].arrays)
    return whole
