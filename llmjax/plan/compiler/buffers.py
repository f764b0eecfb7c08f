"""Buffers that fill a chip's memory at the peak of a step, named after the model."""

import collections
import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

from llmjax.plan.compiler.compile import Compiled
from llmjax.plan.hlo.module import HBM, HloModule, Instruction, parse
from llmjax.train.setup import Program

KINDS = ("parameters", "optimizer", "batch", "gradients", "activations", "temporaries")
LARGE = 64 * 2**20  # bytes from which a weight should not be whole on every chip

_ALLOCATION = re.compile(
    r"allocation \d+: size (\d+)(?:, color (\d+))?(?:, page \d+)?, ?(.*)"
)
_VALUE = re.compile(
    r" value: <\d+ (\S+?)(?: \(phi\))? @(\d+)> \(size=(\d+),offset=(\d+)\): (\S+)"
)
_JOINED = re.compile(r"(?:^|/)\(([^/].*:.*)\)$")
_RANGE = re.compile(r"^ {4}(\S+):(\d+)-(\d+)$", re.M)
_NOISE = re.compile(
    r"jit\(.*\)|eval_jaxpr|while|body|cond|closed_call|checkpoint|rematted_computation"
    r"|shard_map|vmap\(.*\)|remat.*|\w+\._\w+|[A-Z]\w*(\.\w+)?|transformer|.*->.*"
)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One buffer that is live at the peak; bytes on one chip."""

    name: str
    kind: str  # one of `KINDS`
    bytes: int
    shape: str  # on one chip
    source: str  # "file.py:12"; "" where unknown


@dataclasses.dataclass(frozen=True)
class Usage:
    """Bytes of one chip at the peak of a step.

    `kinds` sums to `peak`. "gradients" are values of the backward pass that have a
    parameter's shape, "activations" values of the forward pass and of its
    recomputation, "temporaries" the rest and the gaps between buffers.
    """

    kinds: dict[str, int]
    peak: int
    capacity: int
    largest: tuple[Buffer, ...]


@dataclasses.dataclass(frozen=True)
class _Value:
    name: str  # an instruction's; with a tuple's element: "while.1{2}"
    color: int  # XLA's number of the memory space
    size: int
    offset: int
    shape: str


def usage(compiled: Compiled, largest: int = 12) -> Usage:
    """Reads the memory of a step from the compiler's dump, whether it fits or not."""
    module = parse(compiled.dump["hlo"])
    names = _BufferNames(module, weight_shapes(compiled.program))
    buffers: list[Buffer] = []
    for size, color, kind, values in allocations(compiled.dump["buffers"]):
        parameter = re.match(r"parameter (\d+), shape \|(\S+?)\|", kind)
        if color == HBM and parameter:
            buffers.append(names.argument(int(parameter[1]), parameter[2], size))
        elif "preallocated-temp" in kind and color == HBM:
            live = at_peak(values, live_ranges(compiled.dump["live-range"]))
            buffers += [names.temporary(value) for value in live]
    kinds = dict.fromkeys(KINDS, 0)
    for buffer in buffers:
        kinds[buffer.kind] += buffer.bytes
    arguments = sum(kinds[kind] for kind in ("parameters", "optimizer", "batch"))
    peak = max(compiled.needed, arguments)
    kinds["temporaries"] += peak - sum(kinds.values())
    by_size = sorted(buffers, key=lambda b: -b.bytes)
    return Usage(kinds, peak, compiled.available, tuple(by_size[:largest]))


def allocations(text: str) -> list[tuple[int, int, str, list[_Value]]]:
    """(bytes, memory space, description, values) of every allocation in a dump."""
    entries: list[tuple[int, int, str, list[_Value]]] = []
    for line in text.splitlines():
        if head := _ALLOCATION.match(line):
            entries.append((int(head[1]), int(head[2] or HBM), head[3], []))
        elif (value := _VALUE.match(line)) and entries:
            color, size, offset = (int(value[i]) for i in (2, 3, 4))
            entries[-1][3].append(_Value(value[1], color, size, offset, value[5]))
    return entries


def live_ranges(text: str) -> dict[str, tuple[int, int]]:
    """Value "name{index}" -> its first and last position in the schedule."""
    section = text.partition("BufferLiveRange:")[2].partition("Live ranges at")[0]
    return {m[1]: (int(m[2]), int(m[3])) for m in _RANGE.finditer(section)}


def at_peak(values: list[_Value], ranges: dict[str, tuple[int, int]]) -> list[_Value]:
    """Values of one allocation that are live when most of it is in use.

    Values at the same offset share a buffer, which the last of them names.
    """
    lives = []
    for value in values:
        name = value.name if value.name.endswith("}") else value.name + "{}"
        if value.color == HBM and name in ranges:
            lives.append((*ranges[name], value))
    changes: dict[int, list[tuple[int, _Value]]] = collections.defaultdict(list)
    for start, end, value in lives:
        changes[start].append((1, value))
        changes[end + 1].append((-1, value))
    users: collections.Counter[tuple[int, int]] = collections.Counter()
    used = most = moment = 0
    for time in sorted(changes):
        for sign, value in sorted(changes[time], key=lambda c: c[0]):
            slot = value.offset, value.size
            before, users[slot] = users[slot], users[slot] + sign
            used += value.size * ((users[slot] > 0) - (before > 0))
        if used > most:
            most, moment = used, time
    live = [entry for entry in lives if entry[0] <= moment <= entry[1]]
    last = {(v.offset, v.size): v for _, _, v in sorted(live, key=lambda e: e[0])}
    return sorted(last.values(), key=lambda v: -v.size)


def weight_shapes(program: Program) -> set[tuple[int, ...]]:
    """Shapes that a weight's gradient can have on a chip, as sorted sizes above 1.

    It may be the shard's, one layer's of the shard, or a whole layer's.
    """
    shapes: set[tuple[int, ...]] = set()

    def add(leaf, sharding):
        local, whole = sharding.shard_shape(leaf.shape), leaf.shape
        shapes.update(map(_sizes, (local, local[1:], whole[1:])))

    jax.tree.map(add, program.abstract.params, program.shardings.params)
    return shapes - {()}


def replicated(program: Program, limit: int = LARGE) -> list[str]:
    """Names the leaves of the state that are large on each chip and not sharded.

    Each should be cut by `fsdp`; where that is 1, by `tensor`, `expert` or `pipeline`.
    A mesh of `data` and `sequence` alone is meant to replicate: no faults.

    Returns:
      One message per leaf.
    """
    mesh = program.mesh
    weight_axes = {a for a, n in mesh.shape.items() if n > 1 and a not in _BATCH_ONLY}
    expected = weight_axes & {"fsdp"} or weight_axes
    faults: list[str] = []

    def check(path, leaf, sharding):
        local = sharding.shard_shape(leaf.shape)
        size = math.prod(local) * np.dtype(leaf.dtype).itemsize
        axes = {a for entry in sharding.spec for a in _axes(entry)}
        if size >= limit and not axes & expected:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            faults.append(
                f"{name} ({'x'.join(map(str, leaf.shape))}) takes {size / 2**20:.0f} "
                f"MiB of each chip, which {' and '.join(sorted(expected))} should cut; "
                "name its axes in the layer, or give one of them a mesh axis in "
                "llmjax.parallel.axes.RULES"
            )

    if expected:
        state = (program.abstract, program.shardings)
        jax.tree_util.tree_map_with_path(check, *state)
    return faults


_BATCH_ONLY = ("data", "sequence")  # mesh axes that cut no weight


def _axes(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


class _BufferNames:
    """Names buffers by the modules of the model that their values belong to."""

    def __init__(self, module: HloModule, weights: set[tuple[int, ...]]):
        self._module, self._weights = module, weights
        self._instructions = {
            name: (instruction, computation)
            for computation, body in module.computations.items()
            for name, instruction in body.items()
        }
        self._fusions = {
            instruction.attribute("calls"): instruction
            for instruction, _ in self._instructions.values()
            if instruction.opcode == "fusion"
        }
        self._parameters = {
            int(instruction.operands[0]): instruction
            for instruction in module.computations[module.entry].values()
            if instruction.opcode == "parameter"
        }

    def argument(self, number: int, shape: str, size: int) -> Buffer:
        """The buffer of a leaf of the state or the batch, by the argument's number."""
        path = self._parameters[number].op_name if number in self._parameters else ""
        return Buffer(_state_path(path), _argument_kind(path), size, shape, "")

    def temporary(self, value: _Value) -> Buffer:
        """The buffer of a value, named after the operation that produces it."""
        name, _, index = value.name.partition("{")
        producer = self._producer(name, index.rstrip("}"), 12)
        op_name = producer.op_name if producer else ""
        source = producer.location if producer else ""
        shape = value.shape.partition("{")[0]
        kind = self._kind(op_name, shape)
        return Buffer(_temporary_name(op_name, name), kind, value.size, shape, source)

    def _kind(self, op_name: str, shape: str) -> str:
        recomputed = "rematted_computation" in op_name
        if "transpose(" in op_name and not recomputed:
            sizes = _sizes(map(int, re.findall(r"\d+", shape.partition("[")[2])))
            return "gradients" if sizes in self._weights else "temporaries"
        return "activations" if recomputed or "jvp(" in op_name else "temporaries"

    def _producer(self, name: str, index: str, depth: int) -> Instruction | None:
        """The operation that computes a value, through tuples, loops and copies."""
        name, _, element = name.partition("#")  # "fusion.1#0": element 0
        index = element or index
        if depth == 0 or name not in self._instructions:
            return None
        instruction, computation = self._instructions[name]
        inner = None
        if instruction.opcode == "while" and index:
            inner = self._element(instruction.attribute("body") or "", index, depth)
        elif instruction.opcode == "parameter" and computation in self._fusions:
            operands = self._fusions[computation].operands
            operand = operands[int(instruction.operands[0])]
            inner = self._producer(operand, "", depth - 1)
        elif instruction.opcode == "parameter" and index:
            inner = self._element(computation, index, depth)
        elif instruction.opcode == "dynamic-update-slice":
            inner = self._producer(instruction.operands[1], "", depth - 1)
        elif instruction.opcode == "get-tuple-element":
            number = instruction.attribute("index") or ""
            inner = self._producer(instruction.operands[0], number, depth - 1)
        elif instruction.opcode == "fusion" and (index or _moves(instruction)):
            inner = self._element(instruction.attribute("calls") or "", index, depth)
        elif not instruction.op_name or _moves(instruction):
            sources = [
                self._producer(o, "", depth - 1) for o in instruction.operands[:3]
            ]
            named = [s for s in sources if s is not None and s.op_name]
            inner = max(named, key=lambda s: len(readable(s.op_name)), default=None)
        if inner is not None and inner.op_name:
            return inner
        return instruction

    def _element(self, computation: str, index: str, depth: int):
        """The operation that computes element `index` of a computation's result."""
        body = self._module.computations.get(computation, {})
        for instruction in reversed(body.values()):
            if instruction.root and not index:
                return self._producer(instruction.name, "", depth - 1)
            if instruction.root and instruction.opcode == "tuple":
                return self._producer(instruction.operands[int(index)], "", depth - 1)
        return None


def readable(op_name: str) -> str:
    """Path of an operation without the parts that jax and flax put between modules.

    Of several that the compiler made one, (a/b:c/d), the first and how many more.
    """
    more = ""
    if joined := _JOINED.search(op_name):
        several = joined[1].split(":")
        op_name = f"{op_name[: joined.start()]}/{several[0]}"
        more = f" and {len(several) - 1} more"
    parts: list[str] = []
    for part in op_name.split("/"):
        while outer := re.fullmatch(r"(?:jvp|transpose|vmap|remat)\((.*)\)", part):
            part = outer[1]
        if part and not _NOISE.fullmatch(part) and part not in parts[-1:]:
            parts.append(part)
    return "/".join(parts) + more


def _temporary_name(op_name: str, name: str) -> str:
    """Name of a temporary buffer, with the pass that it belongs to."""
    if op_name.startswith(("state.", "batch")):
        return f"copy of {_state_path(op_name)}"
    path = readable(op_name)
    if path.endswith("/dynamic_update_slice"):
        return f"{path.removesuffix('/dynamic_update_slice')}, of all layers"
    if "rematted_computation" in op_name:
        return f"{path} (again)"
    return f"{path} (backward)" if "transpose(" in op_name else path or name


_MOVES = (
    "while",
    "body",
    "dynamic_update_slice",
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "copy",
    "reduce_precision",  # around a value that remat keeps by name
)


def _moves(instruction: Instruction) -> bool:
    """Whether an instruction only moves a value that another one computed."""
    return instruction.op_name.rpartition("/")[2] in _MOVES


def _state_path(op_name: str) -> str:
    """Converts state.params['a']['b'] to params/a/b."""
    text = re.sub(r"\\?['\"]", "", op_name).removeprefix("state.")
    return re.sub(r"[\[\].]+", "/", text).strip("/")


def _argument_kind(op_name: str) -> str:
    """The kind of a step's argument, one of `KINDS`."""
    if op_name.startswith("batch"):
        return "batch"
    if op_name.startswith(("state.params", "state.frozen", "state.extra")):
        return "parameters"
    return "optimizer"


def _sizes(shape: Any) -> tuple[int, ...]:
    """Sizes above 1, sorted."""
    return tuple(sorted(n for n in shape if n > 1))
