"""GGUF, llama.cpp's format: the header read here with every bound checked, the blocks
dequantised by the library `gguf` (extra `gguf`), a slice at a time."""

import functools
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.hub.files import FLOATS, Shape, Slices, StoredTensor

SCALARS = ("B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d")
STRING, ARRAY = 8, 9  # types that are no scalars
MAX_AXES = 4
MAX_NESTED = 8  # arrays in arrays; no file has more than 1
INFO = 24  # bytes of the shortest tensor info


class Header:
    """A cursor over a header; reading beyond the file's end is an error."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at = path, data, 0

    def fail(self, problem: str) -> ValueError:
        return ValueError(
            f"{self.path} cannot be read as GGUF: {problem}. It is truncated or "
            "foreign; download it again"
        )

    def skip(self, size: int) -> int:
        """Moves on by `size` bytes; returns the offset at which they begin."""
        at = self.at
        if size > len(self.data) - at:
            raise self.fail(f"{size} bytes at {at} of {len(self.data)}")
        self.at += size
        return at

    def number(self, code: str) -> Any:
        layout = "<" + code
        at = self.skip(struct.calcsize(layout))
        return struct.unpack_from(layout, self.data, at)[0]

    def count(self, smallest: int) -> int:
        """A count of items of at least `smallest` bytes each, all within the file."""
        count = self.number("Q")
        if count * smallest > len(self.data) - self.at:
            raise self.fail(f"{count} items at {self.at} of {len(self.data)} bytes")
        return count

    def string(self) -> str:
        size = self.count(1)
        at = self.skip(size)
        try:
            return self.data[at : at + size].decode()
        except UnicodeDecodeError as e:
            raise self.fail(f"the string at {at} is not UTF-8") from e

    def value(self) -> Any:
        """A metadata value: number, string, array of numbers, or list of strings or of
        such lists."""
        kind = self.number("I")
        if kind == STRING:
            return self.string()
        return self.items() if kind == ARRAY else self.number(self.code(kind))

    def items(self, depth: int = 1) -> np.ndarray | list[Any]:
        """The items of an array."""
        kind = self.number("I")
        if kind == STRING:
            return [self.string() for _ in range(self.count(8))]
        if kind == ARRAY:
            if depth == MAX_NESTED:
                raise self.fail(f"arrays {MAX_NESTED} deep before {self.at}")
            return [self.items(depth + 1) for _ in range(self.count(12))]
        dtype = np.dtype("<" + self.code(kind))
        count = self.count(dtype.itemsize)
        at = self.skip(count * dtype.itemsize)
        return np.frombuffer(self.data, dtype, count, at).copy()

    def code(self, kind: int) -> str:
        code = SCALARS[kind] if kind < len(SCALARS) else None
        if code is None:
            raise self.fail(f"a value of the unknown type {kind} before {self.at}")
        return code


def open_gguf(path: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """A file's metadata and its tensors, dequantised when read.

    Raises:
      ValueError: a broken file, one of several parts, or the library is not installed.
    """
    header, metadata, count = _metadata(path)
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ValueError(
            f"{path} is one of {parts} parts; join them with llama.cpp's "
            "`llama-gguf-split --merge` first"
        )
    infos = {}
    for _ in range(count):
        name = header.string()
        axes = header.number("I")
        if not 1 <= axes <= MAX_AXES:
            raise header.fail(f"tensor {name!r} has {axes} axes")
        shape = tuple(header.number("Q") for _ in range(axes))[::-1]
        kind, offset = header.number("I"), header.number("Q")
        if 0 in shape:
            raise header.fail(f"tensor {name!r} has the shape {shape}")
        if name in infos:
            raise header.fail(f"tensor {name!r} stands there twice")
        infos[name] = shape, kind, offset
    align = metadata.get("general.alignment", 32)
    if not isinstance(align, int) or align < 8 or align & (align - 1):
        raise header.fail(f"its alignment is {align!r}, not a power of two")
    start = -(-header.at // align) * align
    data = np.frombuffer(header.data, np.uint8)
    return metadata, _tensors(header, data[start:], infos)


def read_metadata(path: Path) -> dict[str, Any]:
    """A file's metadata alone; raises what `open_gguf` raises."""
    return _metadata(path)[1]


def _metadata(path: Path) -> tuple[Header, dict[str, Any], int]:
    """A cursor after the metadata, the metadata, and how many tensors follow."""
    if path.stat().st_size < INFO:
        raise ValueError(f"{path} is too short for GGUF; download it again")
    with path.open("rb") as file:
        header = Header(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if header.data[:4] != b"GGUF":
        raise header.fail(f"it begins with {header.data[:4]!r}")
    header.skip(4)
    version = header.number("I")
    if version in (2 << 24, 3 << 24):
        raise ValueError(
            f"{path} is written for big-endian machines; convert it with `gguf-convert-"
            "endian MODEL.gguf little` of the library gguf"
        )
    if version not in (2, 3):
        raise header.fail(f"its version is {version}; 2 and 3 are read")
    count = header.count(INFO)
    metadata: dict[str, Any] = {}
    for _ in range(header.count(13)):  # a key's length, a type, one byte
        key = header.string()
        if key in metadata:
            raise header.fail(f"the key {key!r} stands there twice")
        metadata[key] = header.value()
    return header, metadata, count


def _tensors(
    header: Header,
    data: np.ndarray,
    infos: Mapping[str, tuple[Shape, int, int]],
) -> dict[str, StoredTensor]:
    """The tensors, after a check that they lie within `data` and don't overlap."""
    tensors, end, before = {}, 0, ""
    for name, (shape, number, offset) in sorted(infos.items(), key=lambda i: i[1][2]):
        if (layout := _kind(number)) is None:
            raise header.fail(f"{name!r} is of the unknown type {number}")
        kind, block, size, dtype = layout
        if shape[-1] % block:
            raise header.fail(f"{name!r} {shape} does not divide in blocks of {block}")
        bytes_ = math.prod(shape) // block * size
        if offset + bytes_ > len(data):
            raise header.fail(f"{name!r} {shape} of {kind} goes beyond the file's end")
        if offset < end:
            raise header.fail(f"{name!r} and {before!r} overlap")
        end, before = offset + bytes_, name
        row = shape[-1] // block * size
        rows = data[offset:end].reshape(*shape[:-1], row)
        read = functools.partial(_read, rows, kind, block, size)
        tensors[name] = StoredTensor(header.path, shape, kind, dtype, read)
    return tensors


@functools.cache
def _kind(number: int) -> tuple[str, int, int, np.dtype | None] | None:
    """A type's name, weights per block, bytes per block, and the type that reading
    gives (None: it can't be read).

    None for an unknown type; raises ValueError where the library is missing.
    """
    gguf = _library()
    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        return None
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind.name in FLOATS:
        return kind.name, block, size, FLOATS[kind.name]
    try:
        gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return kind.name, block, size, None
    return kind.name, block, size, np.dtype(np.float32)


def _read(
    rows: np.ndarray, kind: str, block: int, size: int, index: Slices
) -> np.ndarray:
    """A slice of a tensor; all blocks of the last axis that it touches are
    dequantised."""
    *outer, last = index
    first, end = last.start // block, -(-last.stop // block)
    raw = np.ascontiguousarray(rows[(*outer, slice(first * size, end * size))])
    if kind in FLOATS:
        return raw.view(FLOATS[kind])
    gguf = _library()
    array = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    return array[..., last.start - first * block : last.stop - first * block]


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as e:
        raise ValueError(
            "reading GGUF needs the library gguf; pip install 'llmjax[gguf]'"
        ) from e
    return gguf
