"""Checks that the config's dataclasses share, above all the range of every number.

A number says its range where it is declared, as `learning_rate: Positive`; `checked`
makes the dataclass and refuses values out of it.
"""

import dataclasses
import functools
import math
import numbers
import typing
from typing import Annotated, Any, TypeVar

T = TypeVar("T")

INT_MAX = 2**31 - 1  # of int32, in which devices count
FLOAT_MAX = 3.4028234663852886e38  # of float32, in which they compute
BITS = 200  # an int of more is not written out in an error


def require(ok: bool, message: str) -> None:
    """Raises ValueError with `message` unless `ok`."""
    if not ok:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers between two ends, never NaN nor infinite.

    Attributes:
      low, high: the ends.
      ends: "[]" if both belong to it, "(]" if all above `low` do.
      also: a number outside that is accepted too.
    """

    low: float | int = -FLOAT_MAX
    high: float | int = FLOAT_MAX
    ends: str = "[]"
    also: int | None = None

    def __contains__(self, value: Any) -> bool:
        if value == self.also:
            return True
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below and math.isfinite(value)

    def accepted(self, value: Any) -> str:
        """Words after "it must" in an error about `value`."""
        own = self.ends[0] == "["
        if self.high not in (INT_MAX, FLOAT_MAX):
            text = f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
        elif self.low == -FLOAT_MAX:
            text = "finite"
        elif self.low == 0:
            text = "not be negative" if own else "positive"
        else:
            text = f"at least {self.low}" if own else f"above {self.low}"
        if self.also is not None:
            text += f", or {self.also}"
        if value > self.high and self.high in (INT_MAX, FLOAT_MAX):
            text += f" and at most {self.high}"
        return text if text.startswith("not ") else f"be {text}"


Size = Annotated[int, Range(0, INT_MAX, "(]")]
Count = Annotated[int, Range(1, INT_MAX)]
Natural = Annotated[int, Range(0, INT_MAX)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0, ends="(]")]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, "(]")]
BelowOne = Annotated[float, Range(0, 1, "[)")]  # a dropout, the decay of an average
InsideOne = Annotated[float, Range(0, 1, "()")]


@typing.dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass that refuses numbers outside their ranges.

    `__post_init__` of the class itself, or of its base, follows.
    """
    rest = getattr(cls, "__post_init__", None)

    def check(self: Any) -> None:
        check_ranges(self)
        if rest is not None:
            rest(self)

    setattr(cls, "__post_init__", check)  # noqa: B010 (mypy: a type has no such)
    return dataclasses.dataclass(frozen=True)(cls)


def check_ranges(value: Any) -> None:
    """Raises ValueError where a field of a config's dataclass is out of its range."""
    cls: Any = type(value)
    for name, range_, optional in ranges(cls):
        item = getattr(value, name)
        if item is None and optional:
            continue
        for number in item if isinstance(item, (tuple, list)) else (item,):
            if not isinstance(number, numbers.Real):
                raise ValueError(
                    f"{name} is {number!r} of type {type(number).__name__}; "
                    "accepted: a number"
                )
            if number not in range_:
                raise ValueError(
                    f"{name} is {shown(number)}; it must {range_.accepted(number)}"
                )


@functools.cache
def ranges(cls: type) -> tuple[tuple[str, Range, bool], ...]:
    """(field, range, whether it may be None) of every number that says its range."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [(f.name, hints[f.name]) for f in dataclasses.fields(cls)]
    return tuple(
        (name, range_, type(None) in typing.get_args(hint))
        for name, hint in fields
        if (range_ := range_of(hint)) is not None
    )


def range_of(hint: Any) -> Range | None:
    """The range in a hint: of a number, an optional one, or a tuple of them."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Range):
            return part
    inner = (range_of(part) for part in typing.get_args(hint))
    return next((range_ for range_ in inner if range_ is not None), None)


def shown(value: Any) -> str:
    """A number as errors write it, which may be too long to write."""
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"an integer of {value.bit_length()} bits"
    return str(value)
