"""The text of a compiled program, parsed into instructions.

The operations of XLA's text form: https://openxla.org/xla/operation_semantics. A TPU
program carries the compiler's estimate of each instruction's cycles in
`backend_config`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_DEFINITION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", re.DOTALL)
_OPCODE = re.compile(r"(?:^| )([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SOURCE = re.compile(r'source_file="([^"]*)" source_line=(\d+)')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_ARRAY = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_MAX_INT64 = 2**63 - 1  # cycles that the compiler cannot estimate


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line: `%name = shape opcode(operands), attributes`."""

    name: str
    opcode: str  # "fusion", "while", "all-gather-start", ...
    shape: str  # "bf16[4,128]{1,0}", or a tuple of such
    rest: str  # the rest of the line: operands and attributes
    root: bool  # whether it is its computation's result
    location: str  # "file.py:12" of the op; "" where unknown

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands; a constant's value, a parameter's index."""
        end = self.rest.find(")")
        if not re.search(r"[(\[{]", self.rest[:end]):  # names alone, as is usual
            operands = self.rest[:end].split(",")
        else:
            operands = _split_operands(self.rest)
        return tuple(x.split()[-1].lstrip("%") for x in operands if x.strip())

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate for one execution; None where it gives none."""
        match = _CYCLES.search(self.rest)
        value = int(match.group(1)) if match else None
        return None if value == _MAX_INT64 else value

    @property
    def op_name(self) -> str:
        """Path of the op in jax: "jit(step)/.../dot_general"; "" where unknown."""
        match = _OP_NAME.search(self.rest)
        return match.group(1) if match else ""

    def attribute(self, key: str) -> str | None:
        """The name or number behind `key=`: body, condition, calls, index, ..."""
        match = re.search(rf"[ ,]{key}=%?([\w.\-]+)", self.rest)
        return match.group(1) if match else None

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations that a conditional chooses from."""
        keys = ("true_computation", "false_computation")
        pair = tuple(x for x in map(self.attribute, keys) if x)
        indexed = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        names = indexed.group(1).split(",") if indexed else ()
        return pair + tuple(x.strip().lstrip("%") for x in names)

    @functools.cached_property
    def arrays(self) -> tuple["ArrayShape", ...]:
        """The result's arrays: one, or all of a tuple's."""
        return arrays(self.shape)


def arrays(shape: str) -> tuple["ArrayShape", ...]:
    """The arrays of a shape's text: one, or all of a tuple's."""
    return tuple(
        ArrayShape(
            dtype,
            tuple(int(n) for n in dims.split(",") if n),
            int(match.group(1)) if (match := _SPACE.search(layout)) else 0,
        )
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def top_level(shape: str) -> tuple[str, ...]:
    """The elements of a tuple's text, tuples among them whole; of an array itself."""
    text = shape.strip()
    if not text.startswith("("):
        return (text,)
    return tuple(x.strip() for x in _split_operands(text[1:]))


def _split_operands(text: str) -> list[str]:
    """Splits at the commas outside brackets, up to the bracket that closes the list."""
    depth, start, operands = 0, 0, []
    for i, char in enumerate(text):
        depth += char in "([{"
        depth -= char in ")]}"
        if depth < 0 or (char == "," and depth == 0):
            operands.append(text[start:i])
            start = i + 1
        if depth < 0:
            break
    return operands


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """One array; `space` is XLA's number of the memory: 0 HBM, 1 vector memory, 5 the
    host's memory, and others."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Bytes, without padding."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.dims) * (int(bits.group()) if bits else 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


HBM, HOST = 0, 5
Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True, eq=False)
class HloModule:
    """A compiled program: computation -> instruction by name, in scheduled order."""

    computations: dict[str, Computation]
    entry: str

    def root(self, computation: str) -> Instruction:
        """The instruction that gives a computation's result."""
        body = self.computations[computation].values()
        return next(x for x in reversed(body) if x.root)


def parse(text: str) -> HloModule:
    """Parses `compiled.as_text()`, or a scheduled module of a dump.

    Raises:
      ValueError: no entry computation.
    """
    frames = _Frames(text)
    computations: dict[str, Computation] = {}
    entry: str | None = None
    current: Computation | None = None
    for line in _logical_lines(text):
        if line.startswith(" "):
            instruction = _instruction(line, frames)
            if current is not None and instruction is not None:
                current[instruction.name] = instruction
        elif line.startswith("}"):
            current = None
        else:
            header = _HEADER.match(_COMMENT.sub("", line)) if "{" in line else None
            if header:
                current = computations[header.group(2)] = {}
                entry = header.group(2) if header.group(1) else entry
    if entry is None:
        raise ValueError(
            "this text has no ENTRY computation; give compiled.as_text() or a "
            "*after_optimizations.txt of xla_dump_to"
        )
    return HloModule(computations, entry)


def _logical_lines(text: str) -> Iterator[str]:
    """Lines; an instruction that a kernel's metadata breaks over several is one."""
    pending = None
    for line in text.splitlines():
        if line.startswith(" "):
            if pending is not None:
                yield pending
            pending = line
        elif (
            pending is not None
            and line not in ("", "}")
            and not _ends_computation(line)
        ):
            pending += line
        else:
            if pending is not None:
                yield pending
            pending = None
            yield line
    if pending is not None:
        yield pending


def _ends_computation(line: str) -> bool:
    return line.startswith("}, execution_thread")


def _instruction(line: str, frames: "_Frames") -> Instruction | None:
    match = _DEFINITION.match(_COMMENT.sub("", line) if "/*" in line else line)
    if match is None:
        return None
    root, name, definition = match.groups()
    opcode = _OPCODE.search(definition)
    if opcode is None:
        return None
    shape, rest = definition[: opcode.start()], definition[opcode.end() :]
    location = frames.location_of(rest)
    return Instruction(name, opcode.group(1), shape, rest, root is not None, location)


# Every matrix multiplication goes through these: the line that calls them says more.
_WRAPPERS = ("Projection.", "ExpertKernels.")
_WRAPPING_FILES = ("quantized.py",)


class _Frames:
    """Source lines: in the instruction itself, or by the tables that begin the text."""

    def __init__(self, text: str):
        head = text[: text.find(") -> ")] if ") -> " in text else text
        tables = {}
        for title in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            section = re.search(rf"^{title}\n((?:\d+ .*\n)*)", head, re.MULTILINE)
            lines = section.group(1).splitlines() if section else []
            tables[title] = dict(line.split(" ", 1) for line in lines)
        self.files = tables["FileNames"]
        self.functions = tables["FunctionNames"]
        self.locations = tables["FileLocations"]
        self.frames = tables["StackFrames"]

    def location_of(self, rest: str) -> str:
        """`file.py:12` of the instruction with this `rest`; "" where unknown."""
        source = _SOURCE.search(rest)
        if source:
            return f"{source.group(1).rsplit('/', 1)[-1]}:{source.group(2)}"
        frame = _FRAME.search(rest)
        return self._frame(int(frame.group(1))) if frame else ""

    @functools.cache  # noqa: B019 - lives as long as one parse
    def _frame(self, number: int) -> str:
        """`file.py:12` of the innermost frame that is not a wrapper's."""
        frame = self.frames.get(str(number))
        location = self.locations.get(str(_field(frame, "file_location_id")))
        path = self.files.get(str(_field(location, "file_name_id")), "")
        file = path.strip('"').rsplit("/", 1)[-1]
        name = self.functions.get(str(_field(location, "function_name_id")), "")
        parent = (_field(frame, "parent_frame_id") or 1) - 1  # counted from 1
        wraps = file in _WRAPPING_FILES or name.strip('"').startswith(_WRAPPERS)
        if wraps and parent:
            return self._frame(parent)
        line = _field(location, "line")
        return f"{file}:{line}" if file and line else ""


def _field(text: str | None, key: str) -> int | None:
    match = re.search(rf"\b{key}=(\d+)", text or "")
    return int(match.group(1)) if match else None
