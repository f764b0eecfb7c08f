"""A table's entries bound to the shapes of a model: which tensor holds which leaf.

`bind` finds the entries of a model's leaves. A `Bound` entry names its tensors, and its
`View`s rearrange them: any block of a leaf is read from the slices of a tensor that it
needs, and a tensor is joined from its leaves.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import einops
import numpy as np

from llmjax.hub.files import Shape, Slices
from llmjax.hub.table import Entry, Table

Side = tuple[tuple[str, ...], ...]  # of a pattern's arrow: the letters of each axis
Range = tuple[int, int]  # [start, stop)


def _parse(side: str) -> Side:
    """From "(N H) D 2" (("N", "H"), ("D",), ("n2",)): einops wants no numbers but 1."""
    axes = []
    for group, single in re.findall(r"\(([^()]*)\)|(\S+)", side):
        letters = (group or single).split()
        axes.append(tuple(f"n{a}" if a.isdigit() and a != "1" else a for a in letters))
    return tuple(axes)


def _parse_pattern(pattern: str) -> tuple[Side, Side]:
    """Theirs and ours of "theirs -> ours"."""
    theirs, ours = map(_parse, pattern.split("->"))
    return theirs, ours


def _text(axes: Side) -> str:
    """The side as einops reads it: the reverse of `_parse`."""
    return " ".join(f"({' '.join(a)})" if len(a) != 1 else a[0] for a in axes)


def _sizes(ours: Side, shape: Shape, entry: Entry) -> dict[str, int]:
    """The size of every letter of ours, from a leaf's shape.

    Raises:
      ValueError: the entry's pattern does not fit the shape.
    """
    sizes: dict[str, int] = {}
    misfit = ValueError(f"{_name(entry)} does not fit our shape {shape}")
    if len(ours) != len(shape):
        raise misfit
    for letters, size in zip(ours, shape, strict=True):
        numbers = [a for a in letters if re.fullmatch(r"1|n\d+", a)]
        sizes |= {a: int(a.lstrip("n")) for a in numbers}
        fixed = math.prod(sizes[a] for a in letters if a in sizes)
        free = [a for a in letters if a not in sizes]
        if len(free) > 1 or size % fixed or (not free and size != fixed):
            raise misfit
        sizes |= {a: size // fixed for a in free}
    return sizes


def _name(entry: Entry) -> str:
    return f"table entry {entry.name!r}, pattern {entry.pattern!r},"


def _range(
    letters: Sequence[str],
    sizes: Mapping[str, int],
    needed: Mapping[str, Range],
    ranges: dict[str, Range],
) -> Range:
    """The smallest range of a composite axis that holds the ranges needed.

    Exact while the letters further out have a range of 1; behind a longer one, letters
    are read whole.

    Args:
      letters: of the axis, outermost first.
      sizes: of every letter.
      needed: letter -> range; absent: all.
      ranges: gets the range that is read of each letter.
    """
    low, high = 0, 1
    for a in letters:
        all_of_it = (0, sizes[a])
        ranges[a] = needed.get(a, all_of_it) if high - low == 1 else all_of_it
        if high - low == 1:
            low, high = low * sizes[a] + ranges[a][0], low * sizes[a] + ranges[a][1]
        else:
            low, high = low * sizes[a], high * sizes[a]
    return low, high


@dataclasses.dataclass(frozen=True)
class View:
    """One leaf of ours in one tensor of theirs, without the axes L and E.

    Attributes:
      theirs, ours: both sides of the pattern; `p` is left out of ours.
      sizes: letter -> size.
      p: the leaf's number, where the pattern's `p` numbers leaves.
      outer: number of letters of theirs' first axis that lie outside of the
        concatenation.
      offset: first row of the leaf in the concatenation.
      total: rows of the whole concatenation.
    """

    theirs: Side
    ours: Side
    sizes: Mapping[str, int]
    p: int | None = None
    outer: int = 0
    offset: int = 0
    total: int = 0

    @property
    def length(self) -> int:
        """Rows of this leaf in the concatenation."""
        return math.prod(self.sizes[a] for a in self.theirs[0][self.outer :])

    def rearrange(
        self, array: np.ndarray, forward: bool, sizes: Mapping[str, int]
    ) -> np.ndarray:
        """Theirs to ours, or ours to theirs; with `p` in front of ours."""
        ours = self.ours if self.p is None else (("p",), *self.ours)
        sides = _text(self.theirs), _text(ours)
        pattern = " -> ".join(sides if forward else reversed(sides))
        letters = {a: n for a, n in sizes.items() if a != "1"}
        return einops.rearrange(array, pattern, **letters)

    def read(
        self, read: Callable[[Slices], np.ndarray], index: Sequence[slice]
    ) -> np.ndarray:
        """Our block at `index`, from the smallest block of theirs that holds it.

        Args:
          read: slices of theirs -> array.
          index: slices of ours, with start and stop.
        """
        needed = {
            axis[0]: (s.start, s.stop)
            for axis, s in zip(self.ours, index, strict=True)
            if len(axis) == 1
        }
        if self.p is not None:
            needed["p"] = (self.p, self.p + 1)
        ranges: dict[str, Range] = {}
        outer, inner = self.theirs[0][: self.outer], self.theirs[0][self.outer :]
        low, high = _range(outer, self.sizes, needed, ranges)
        one = high - low == 1
        rows = _range(inner, self.sizes, needed if one else {}, ranges)
        if one:
            first = slice(*(low * self.total + self.offset + i for i in rows))
        else:
            first = slice(low * self.total, high * self.total)
        others = (_range(a, self.sizes, needed, ranges) for a in self.theirs[1:])
        array = read((first, *(slice(*r) for r in others)))
        if not one:
            array = array.reshape(high - low, self.total, *array.shape[1:])
            array = array[:, self.offset : self.offset + self.length]
            array = array.reshape(-1, *array.shape[2:])
        lengths = {a: high - low for a, (low, high) in ranges.items()}
        array = self.rearrange(array, True, lengths)
        if self.p is not None:
            array = array[self.p - ranges["p"][0]]
        cut = tuple(
            slice(s.start - ranges[axis[0]][0], s.stop - ranges[axis[0]][0])
            if len(axis) == 1
            else s
            for axis, s in zip(self.ours, index, strict=True)
        )
        return array[cut]


@dataclasses.dataclass(frozen=True)
class Bound:
    """An entry bound to one stack of a model's leaves, or to leaves outside of stacks.

    Attributes:
      name: name of the tensors, with {l} and {e}.
      paths: paths of our leaves.
      views: one per leaf.
      stacked: sizes of the leaves' first axes, L (unless absent) and E (where {e} is).
      base, step: layer l of the stack has the number base + step * l at the hub.
    """

    name: str
    paths: tuple[str, ...]
    views: tuple[View, ...]
    stacked: Shape = ()
    base: int = 0
    step: int = 1

    @property
    def shape(self) -> Shape:
        """The shape of each of the tensors."""
        view = self.views[0]
        outer = math.prod(view.sizes[a] for a in view.theirs[0][: view.outer])
        others = (math.prod(view.sizes[a] for a in axis) for axis in view.theirs[1:])
        return (outer * view.total, *others)

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every index of the stacked axes, lazily."""
        return itertools.product(*map(range, self.stacked))

    def tensor(self, index: tuple[int, ...]) -> str:
        """The name of the tensor at `index` of the stacked axes."""
        numbers = list(index)
        expert = numbers.pop() if "{e}" in self.name else 0
        layer = self.base + self.step * (numbers[0] if numbers else 0)
        return self.name.replace("{l}", str(layer)).replace("{e}", str(expert))

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Their tensor from our leaves, each at one index of the stacked axes."""
        first = self.views[0]
        if first.p is not None:
            return first.rearrange(np.stack(arrays), False, first.sizes)
        rows = []
        for view, array in zip(self.views, arrays, strict=True):
            theirs = view.rearrange(array, False, view.sizes)
            rows.append(theirs.reshape(-1, view.length, *theirs.shape[1:]))
        return np.concatenate(rows, axis=1).reshape(self.shape)


def _views(entry: Entry, shapes: Sequence[Shape]) -> tuple[View, ...]:
    """The views of an entry whose leaves have these shapes, without L and E."""
    if isinstance(entry.pattern, str):
        theirs, ours = _parse_pattern(entry.pattern)
        many = not isinstance(entry.leaf, str)
        ours = ours[1:] if many else ours
        if len(set(shapes)) > 1:
            raise ValueError(f"{_name(entry)} has leaves of unlike shapes {shapes}")
        sizes = _sizes(ours, shapes[0], entry) | {"1": 1}
        if many:
            sizes["p"] = len(shapes)
        view = View(theirs, ours, sizes)
        view = dataclasses.replace(view, total=view.length)
        if not many:
            return (view,)
        return tuple(dataclasses.replace(view, p=p) for p in range(len(shapes)))
    views, total = [], 0
    for pattern, shape in zip(entry.pattern, shapes, strict=True):
        theirs, ours = _parse_pattern(pattern)
        sizes = _sizes(ours, shape, entry) | {"1": 1}
        outer = len(entry.inside.split())
        view = View(theirs, ours, sizes, outer=outer, offset=total)
        views.append(view)
        total += view.length
    return tuple(dataclasses.replace(v, total=total) for v in views)


def bind(table: Table, shapes: Mapping[str, Shape]) -> list[Bound]:
    """The table's entries that this model has.

    Args:
      table: the table of the model's config.
      shapes: path -> shape, of every leaf of the model.

    Raises:
      ValueError: a leaf that no entry covers, or two do; a pattern that doesn't fit.
    """
    bound: list[Bound] = []
    for entry in table.entries:
        bound += _bind(entry, "", shapes, None, 0, 1)
    for section in table.layers:
        number = section.first
        for g, group in enumerate(section.groups):
            step = len(group.pattern)
            repeat = None if group.shared else group.repeat
            for i in range(step):
                prefix = f"{section.prefix}/group_{g}/layer_{i}/"
                for entry in section.entries:
                    name = entry.name.replace("{g}", str(g)).replace("{i}", str(i))
                    entry = dataclasses.replace(entry, name=name)
                    bound += _bind(entry, prefix, shapes, repeat, number + i, step)
            number += step * (repeat or 1)
    seen: set[str] = set()
    for path in itertools.chain.from_iterable(b.paths for b in bound):
        if path in seen:
            raise ValueError(f"the table has two entries for our leaf {path}")
        seen.add(path)
    if rest := sorted(shapes.keys() - seen):
        raise ValueError(
            f"the table has no entry for our leaf {rest[0]} {shapes[rest[0]]}"
            + (f" and {len(rest) - 1} more" if rest[1:] else "")
            + "; this family has no such model"
        )
    return bound


def _bind(
    entry: Entry,
    prefix: str,
    shapes: Mapping[str, Shape],
    repeat: int | None,
    base: int,
    step: int,
) -> list[Bound]:
    """The entry bound to the leaves under `prefix`, if the model has them.

    Args:
      repeat: layers stacked in the leaves; None: leaves without the axis L.
      base, step: as in `Bound`.
    """
    leaves = (entry.leaf,) if isinstance(entry.leaf, str) else entry.leaf
    paths = tuple(prefix + leaf for leaf in leaves)
    if not any(path in shapes for path in paths):
        return []
    for path in paths:
        if path not in shapes:
            raise ValueError(
                f"{entry.name!r} fuses {paths}, but our model lacks {path}"
            )
    count = (repeat is not None) + ("{e}" in entry.name)
    stacked = shapes[paths[0]][:count]
    views = _views(entry, [shapes[path][count:] for path in paths])
    return [Bound(entry.name, paths, views, stacked, base, step)]
