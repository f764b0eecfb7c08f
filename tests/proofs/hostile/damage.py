"""Ways in which a file goes wrong, drawn at random."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = (
    0,
    1,
    2,
    255,
    2**16,
    2**31 - 1,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(-1, 1.5, 1e308, float("nan"), float("inf"), 10**400, None, True, False),
    *("", "F32", "../../x", "\0", "\ud800", "x" * 3000, "{{ x }}", "%s", "None"),
    *([], {}, [[]], [None], [1, "a"], {"a": {"b": []}}, {"": ""}),
)
Damage = Callable[[np.random.Generator, bytearray, int], None]


def flip(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Flips up to three bits."""
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(head)] ^= 1 << rng.integers(8)


def overwrite(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Writes a number of 1, 2, 4 or 8 bytes, one at the edge of a type."""
    at, code = rng.integers(max(1, head - 8)), "BHIQ"[rng.integers(4)]
    value = NUMBERS[rng.integers(len(NUMBERS))] & (256 ** struct.calcsize(code) - 1)
    number = struct.pack("<" + code, value)
    data[at : at + len(number)] = number


def truncate(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Drops the end."""
    del data[rng.integers(len(data)) :]


def cut(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Drops some bytes."""
    at = rng.integers(head)
    del data[at : at + rng.integers(1, 64)]


def insert(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Adds some bytes."""
    at = rng.integers(head)
    data[at:at] = rng.bytes(int(rng.integers(1, 64)))


def copy(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Writes some bytes over others."""
    a, b, n = rng.integers(head), rng.integers(head), rng.integers(1, 64)
    data[a : a + n] = data[b : b + n]


def repeat(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Repeats some bytes up to 50,000 times."""
    at, n = rng.integers(head), rng.integers(1, 16)
    data[at:at] = data[at : at + n] * int(10 ** rng.uniform(1, 4.7))


def anywhere(rng: np.random.Generator, data: bytearray, head: int) -> None:
    """Flips bits of the whole file."""
    flip(rng, data, len(data))


BYTES: tuple[Damage, ...] = (
    *(flip, flip, overwrite, overwrite, truncate, cut, insert, copy),
    *(repeat, anywhere),
)


def damage_bytes(rng: np.random.Generator, file: Path, head: int | None = None) -> str:
    """Damages a file, for the most part in its first `head` bytes; tells how."""
    data = bytearray(file.read_bytes())
    damage = BYTES[rng.integers(len(BYTES))]
    if data:
        damage(rng, data, min(head or len(data), len(data)))
    file.write_bytes(data)
    return f"{file.name}: {damage.__name__}"


def rewrite_json(rng: np.random.Generator, file: Path) -> str:
    """Replaces, drops, renames or nests one value of a JSON file; tells which."""
    value = json.loads(file.read_text())
    places = list(_places(value))
    container, key = places[rng.integers(len(places))]
    what = ("replace", "replace", "replace", "drop", "rename", "nest")[rng.integers(6)]
    new = VALUES[rng.integers(len(VALUES))]
    if what == "replace":
        container[key] = new
    elif what == "drop":
        del container[key]
    elif what == "rename" and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    else:
        depth = int(10 ** rng.uniform(0, 3))
        for _ in range(depth):
            container[key] = [container[key]]
    file.write_text(json.dumps(value))
    return f"{file.name}: {what} {key!r} ({str(new)[:30]!r})"


def _places(value: Any) -> Any:
    """(container, key) of every value of a JSON document, at any depth."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    for key, item in items:
        yield value, key
        yield from _places(item)


def damage_json(rng: np.random.Generator, file: Path) -> str:
    """Damages the values of a JSON file, or sometimes its bytes."""
    return rewrite_json(rng, file) if rng.random() < 0.75 else damage_bytes(rng, file)
