"""What fills a chip's memory: the buffers of its fullest moment, by name."""

import collections
import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

from llmjax.plan import hlo
from llmjax.plan.compile import Compiled
from llmjax.train.setup import Program

KINDS = ("parameters", "optimizer", "batch", "gradients", "activations", "temporaries")
HBM = 0  # the compiler's number of the memory
LARGE = 64 * 2**20  # bytes of a weight that should not lie whole on every chip

_ALLOCATION = re.compile(
    r"allocation \d+: size (\d+)(?:, color (\d+))?, page \d+, ?(.*)"
)
_VALUE = re.compile(
    r" value: <\d+ (\S+?)(?: \(phi\))? @(\d+)> \(size=(\d+),offset=(\d+)\): (\S+)"
)
_RANGE = re.compile(r"^ {4}(\S+):(\d+)-(\d+)$", re.M)
_NOISE = re.compile(
    r"jit\(.*\)|eval_jaxpr|while|body|cond|closed_call|checkpoint|rematted_computation"
    r"|shard_map|vmap\(.*\)|remat.*|\w+\._\w+|[A-Z]\w*(\.\w+)?|transformer|.*->.*"
)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One buffer at the fullest moment; bytes are those of one chip."""

    name: str
    kind: str
    bytes: int
    shape: str
    source: str


@dataclasses.dataclass(frozen=True)
class Usage:
    """The bytes of one chip at the fullest moment of a step.

    `kinds` sums to `peak`. Of "gradients" are the backward pass's values that have a
    parameter's shape, of "activations" those of the forward pass and of its
    recomputation, of "temporaries" the rest and the gaps between buffers.
    """

    kinds: dict[str, int]
    peak: int
    capacity: int
    largest: tuple[Buffer, ...]


@dataclasses.dataclass(frozen=True)
class _Value:
    name: str  # of an instruction, and of a tuple's element: "while.1{2}"
    color: int
    size: int
    offset: int
    shape: str


def usage(compiled: Compiled, largest: int = 12) -> Usage:
    """Reads the compiler's dump of a program, whether it fits or not."""
    program = hlo.parse(compiled.dump["hlo"])
    names = _Names(program, weight_shapes(compiled.program))
    found, temporaries = [], 0
    for size, color, kind, values in allocations(compiled.dump["buffers"]):
        parameter = re.match(r"parameter (\d+), shape \|(\S+?)\|", kind)
        if color == HBM and parameter:
            found.append(names.argument(int(parameter[1]), parameter[2], size))
        elif "preallocated-temp" in kind and color == HBM:
            temporaries += size
            live = at_peak(values, live_ranges(compiled.dump["live-range"]))
            found += [names.temporary(value) for value in live]
    kinds = dict.fromkeys(KINDS, 0)
    for buffer in found:
        kinds[buffer.kind] += buffer.bytes
    held = sum(kinds[kind] for kind in ("parameters", "optimizer", "batch"))
    peak = max(compiled.needed, held)
    kinds["temporaries"] += peak - sum(kinds.values())
    ordered = sorted(found, key=lambda b: -b.bytes)[:largest]
    return Usage(kinds, peak, compiled.available, tuple(ordered))


def allocations(text: str) -> list[tuple[int, int, str, list[_Value]]]:
    """(bytes, memory, what for, values) of each allocation of a buffer assignment."""
    found: list[tuple[int, int, str, list[_Value]]] = []
    for line in text.splitlines():
        if head := _ALLOCATION.match(line):
            found.append((int(head[1]), int(head[2] or HBM), head[3], []))
        elif (value := _VALUE.match(line)) and found:
            color, size, offset = (int(value[i]) for i in (2, 3, 4))
            found[-1][3].append(_Value(value[1], color, size, offset, value[5]))
    return found


def live_ranges(text: str) -> dict[str, tuple[int, int]]:
    """First and last place in the schedule of each value, "name{index}"."""
    section = text.partition("BufferLiveRange:")[2].partition("Live ranges at")[0]
    return {m[1]: (int(m[2]), int(m[3])) for m in _RANGE.finditer(section)}


def at_peak(values: list[_Value], ranges: dict[str, tuple[int, int]]) -> list[_Value]:
    """The values of one allocation that live when most of it is in use.

    Values in one place are one buffer, known by the last of them.
    """
    known = []
    for value in values:
        name = value.name if value.name.endswith("}") else value.name + "{}"
        if value.color == HBM and name in ranges:
            known.append((*ranges[name], value))
    changes: dict[int, list[tuple[int, _Value]]] = collections.defaultdict(list)
    for start, end, value in known:
        changes[start].append((1, value))
        changes[end + 1].append((-1, value))
    users: collections.Counter[tuple[int, int]] = collections.Counter()
    used = most = moment = 0
    for time in sorted(changes):
        for sign, value in sorted(changes[time], key=lambda c: c[0]):
            place = value.offset, value.size
            before, users[place] = users[place], users[place] + sign
            used += value.size * ((users[place] > 0) - (before > 0))
        if used > most:
            most, moment = used, time
    here = [entry for entry in known if entry[0] <= moment <= entry[1]]
    last = {(v.offset, v.size): v for _, _, v in sorted(here, key=lambda e: e[0])}
    return sorted(last.values(), key=lambda v: -v.size)


def weight_shapes(program: Program) -> set[tuple[int, ...]]:
    """Shapes that a weight's gradient can have on a chip, as sorted sizes over 1.

    Of the shard, of a layer of it, and of a whole layer.
    """
    found: set[tuple[int, ...]] = set()

    def add(leaf, sharding):
        local, whole = sharding.shard_shape(leaf.shape), leaf.shape
        found.update(map(_sizes, (local, local[1:], whole[1:])))

    jax.tree.map(add, program.abstract.params, program.shardings.params)
    return found - {()}


def replicated(program: Program, limit: int = LARGE) -> list[str]:
    """Leaves of the state, large on each chip, that the mesh's `fsdp` does not cut.

    Where it is 1, those that `tensor`, `expert` and `pipeline` leave whole. One line
    each; none on a mesh of `data` and `sequence` alone, which is meant to copy.
    """
    mesh = program.mesh
    cutting = {a for a, n in mesh.shape.items() if n > 1 and a not in _WHOLE}
    wanted = cutting & {"fsdp"} or cutting
    found: list[str] = []

    def check(path, leaf, sharding):
        local = sharding.shard_shape(leaf.shape)
        size = math.prod(local) * np.dtype(leaf.dtype).itemsize
        axes = {a for entry in sharding.spec for a in _axes(entry)}
        if size >= limit and not axes & wanted:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found.append(
                f"{name} ({'x'.join(map(str, leaf.shape))}) takes {size / 2**20:.0f} "
                f"MiB of each chip, which {' and '.join(sorted(wanted))} should cut; "
                "name its axes in the layer, or give one of them a mesh axis in "
                "llmjax.parallel.axes.RULES"
            )

    if wanted:
        state = (program.abstract, program.shardings)
        jax.tree_util.tree_map_with_path(check, *state)
    return found


_WHOLE = ("data", "sequence")  # mesh axes that cut no weight


def _axes(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


class _Names:
    """From instructions to the names that the model's author gave."""

    def __init__(self, program: hlo.Program, weights: set[tuple[int, ...]]):
        self._program, self._weights = program, weights
        self._where = {
            name: (instruction, computation)
            for computation, body in program.computations.items()
            for name, instruction in body.items()
        }
        self._fusions = {
            instruction.attribute("calls"): instruction
            for instruction, _ in self._where.values()
            if instruction.opcode == "fusion"
        }
        self._parameters = {
            int(instruction.operands[0]): instruction
            for instruction in program.computations[program.entry].values()
            if instruction.opcode == "parameter"
        }

    def argument(self, number: int, shape: str, size: int) -> Buffer:
        """Of the state or the batch, by the argument's number."""
        path = self._parameters[number].op_name if number in self._parameters else ""
        return Buffer(_state_path(path), _held(path), size, shape, "")

    def temporary(self, value: _Value) -> Buffer:
        """By the operation that made it."""
        name, _, index = value.name.partition("{")
        made = self._maker(name, index.rstrip("}"), 12)
        op_name, source = (made.op_name, made.location) if made else ("", "")
        shape = value.shape.partition("{")[0]
        kind = self._kind(op_name, shape)
        return Buffer(_title(op_name, name), kind, value.size, shape, source)

    def _kind(self, op_name: str, shape: str) -> str:
        recomputed = "rematted_computation" in op_name
        if "transpose(" in op_name and not recomputed:
            sizes = _sizes(map(int, re.findall(r"\d+", shape.partition("[")[2])))
            return "gradients" if sizes in self._weights else "temporaries"
        return "activations" if recomputed or "jvp(" in op_name else "temporaries"

    def _maker(self, name: str, index: str, depth: int) -> hlo.Instruction | None:
        """The operation behind a value: through tuples, loops, copies and moves."""
        name, _, element = name.partition("#")  # "fusion.1#0": of its tuple
        index = element or index
        if depth == 0 or name not in self._where:
            return None
        instruction, computation = self._where[name]
        inner = None
        if instruction.opcode == "while" and index:
            inner = self._element(instruction.attribute("body") or "", index, depth)
        elif instruction.opcode == "parameter" and computation in self._fusions:
            outside = self._fusions[computation].operands
            inner = self._maker(outside[int(instruction.operands[0])], "", depth - 1)
        elif instruction.opcode == "parameter" and index:
            inner = self._element(computation, index, depth)
        elif instruction.opcode == "dynamic-update-slice":
            inner = self._maker(instruction.operands[1], "", depth - 1)
        elif instruction.opcode == "get-tuple-element":
            number = instruction.attribute("index") or ""
            inner = self._maker(instruction.operands[0], number, depth - 1)
        elif instruction.opcode == "fusion" and (index or _moves(instruction)):
            inner = self._element(instruction.attribute("calls") or "", index, depth)
        elif not instruction.op_name or _moves(instruction):
            made = [self._maker(o, "", depth - 1) for o in instruction.operands[:3]]
            named = [m for m in made if m is not None and m.op_name]
            inner = max(named, key=lambda m: len(readable(m.op_name)), default=None)
        if inner is not None and inner.op_name:
            return inner
        return instruction

    def _element(self, computation: str, index: str, depth: int):
        """What a computation gives as element `index` of its result."""
        body = self._program.computations.get(computation, {})
        for instruction in reversed(body.values()):
            if instruction.root and not index:
                return self._maker(instruction.name, "", depth - 1)
            if instruction.root and instruction.opcode == "tuple":
                return self._maker(instruction.operands[int(index)], "", depth - 1)
        return None


def readable(op_name: str) -> str:
    """jax's path of an operation, less what jax and flax put between the modules."""
    parts: list[str] = []
    for part in op_name.split("/"):
        while outer := re.fullmatch(r"(?:jvp|transpose|vmap|remat)\((.*)\)", part):
            part = outer[1]
        if part and not _NOISE.fullmatch(part) and part not in parts[-1:]:
            parts.append(part)
    return "/".join(parts)


def _title(op_name: str, name: str) -> str:
    """How a temporary buffer is called, and of which pass it is."""
    if op_name.startswith(("state.", "batch")):
        return f"copy of {_state_path(op_name)}"
    title = readable(op_name)
    if title.endswith("/dynamic_update_slice"):
        return f"{title.removesuffix('/dynamic_update_slice')}, of all layers"
    if "rematted_computation" in op_name:
        return f"{title} (again)"
    return f"{title} (backward)" if "transpose(" in op_name else title or name


_MOVES = (
    "while",
    "body",
    "dynamic_update_slice",
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "copy",
    "reduce_precision",  # of a name that remat knows
)


def _moves(instruction: hlo.Instruction) -> bool:
    """Whether it only puts a value somewhere: what is behind it says more."""
    return instruction.op_name.rpartition("/")[2] in _MOVES


def _state_path(op_name: str) -> str:
    """state.params['a']['b'] -> params/a/b."""
    text = re.sub(r"\\?['\"]", "", op_name).removeprefix("state.")
    return re.sub(r"[\[\].]+", "/", text).strip("/")


def _held(op_name: str) -> str:
    if op_name.startswith("batch"):
        return "batch"
    if op_name.startswith(("state.params", "state.frozen", "state.extra")):
        return "parameters"
    return "optimizer"


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(sorted(n for n in shape if n > 1))
