"""One table says a family's names and layouts, from the hub's to ours and back.

A line of a table is an `Entry`: the hub's tensor, our leaf, and how the axes of the one
become those of the other, in the letters of `llmjax.parallel.axes`:

    Entry("mlp.up_proj.weight", "mlp/up/kernel", "F D -> D F")
    Entry("attn.q_proj.weight", "attention/query/kernel", "(N H) D -> D N H")

Theirs stands on the left of the arrow. Sizes come from our leaf's shape. Letters in
brackets are one axis, the outer letter first; a number is an axis, or a part of one, of
that size. Where several of our leaves are fused in one tensor of theirs, either `p`
numbers them, in front of ours:

    Entry("attn.c_attn.weight", (query, key, value), "D (p N H) -> p D N H")

or each has a pattern, and theirs are concatenated along the first axis, at its start or
inside the letters of `inside` (DeepSeek's keys and values lie side by side per head):

    Entry("qkv_proj.weight", (query, key), ("(N H) D -> D N H", "(K H) D -> D K H"))
    Entry("kv_b.weight", (key, value), ("(N H) R -> R N H", "(N U) R -> R N U"), "N")

In a `Layers` section `{l}` in a name is the layer's number, and our leaf is relative to
the block, stacked over the layers of a group; `{e}` anywhere is an expert's number, our
leaf being stacked over experts (after layers). Patterns don't mention these two axes.

A table may list every entry that some member of its family has: an entry whose leaf the
model at hand lacks does not count. So a table seldom needs an `if`; strictness comes
from the model's own tree, each leaf of which must have exactly one entry.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import einops
import numpy as np

from llmjax.config import Group, ModelConfig

Shape = tuple[int, ...]
Slices = tuple[slice, ...]
Axes = tuple[tuple[str, ...], ...]  # of one side of a pattern: letters of each axis


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of the hub and the leaf or leaves of ours that it holds; see above."""

    name: str
    leaf: str | tuple[str, ...]
    pattern: str | tuple[str, ...]
    inside: str = ""


@dataclasses.dataclass(frozen=True)
class Layers:
    """The entries of a stack's layers.

    Attributes:
      prefix: of the stack in our tree, e.g. "transformer/stack".
      groups: of the config: `cfg.layers` or `cfg.encoder_layers`.
      entries: of one layer, their leaves relative to the block.
      first: the hub's number of the first layer. A shared group counts once.
    """

    prefix: str
    groups: tuple[Group, ...]
    entries: tuple[Entry, ...]
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Table:
    """All names of a model.

    Attributes:
      entries: of the leaves outside of layers, named by their whole path.
      layers: one section per stack.
      ignored: regular expressions of whole names that a file may carry but that hold
        nothing of ours (tied copies, buffers).
      base: the prefix of the bare model's names ("model.", "bert."); bare models, and
        files none of whose names begin with it, go without.
      renamed: (regular expression, replacement) of names that older files have.
    """

    entries: tuple[Entry, ...]
    layers: tuple[Layers, ...] = ()
    ignored: tuple[str, ...] = ()
    base: str = ""
    renamed: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Gguf:
    """How llama.cpp keeps a family.

    Attributes:
      to_hf: (metadata, tensors by name as `files.Stored`) -> a dict as of config.json.
      table: as `Family.table`, with llama.cpp's names.
    """

    to_hf: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    table: Callable[[ModelConfig], Table]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of the hub: its config and its names, both ways.

    Attributes:
      name: config.json's `model_type`.
      architectures: config.json's `architectures` that we know, each with the class of
        `llmjax.models.heads` that it is: "LanguageModel", "Encoder", "Discriminator".
        The first of a class is what `save` writes.
      to_config: config.json's dict -> ModelConfig; ValueError for what we can't do.
      to_hf: the reverse, without `architectures`, `model_type` and `dtype`; ValueError
        for what the family can't say.
      table: the names of a config's tensors.
      gguf: llama.cpp's, where it keeps this family.
    """

    name: str
    architectures: Mapping[str, str]
    to_config: Callable[[dict[str, Any]], ModelConfig]
    to_hf: Callable[[ModelConfig], dict[str, Any]]
    table: Callable[[ModelConfig], Table]
    gguf: Gguf | None = None


# --- a table bound to the shapes of a model ------------------------------------------


def _axes(side: str) -> Axes:
    """From "(N H) D 2" (("N", "H"), ("D",), ("n2",)): einops wants no numbers but 1."""
    found = []
    for group, single in re.findall(r"\(([^()]*)\)|(\S+)", side):
        letters = (group or single).split()
        found.append(tuple(f"n{a}" if a.isdigit() and a != "1" else a for a in letters))
    return tuple(found)


def _text(axes: Axes) -> str:
    return " ".join(f"({' '.join(a)})" if len(a) != 1 else a[0] for a in axes)


def _sizes(ours: Axes, shape: Shape, what: str) -> dict[str, int]:
    """The size of every letter of ours, from a leaf's shape."""
    sizes: dict[str, int] = {}
    if len(ours) != len(shape):
        raise ValueError(f"{what} does not fit our shape {shape}")
    for letters, size in zip(ours, shape, strict=True):
        numbers = [a for a in letters if re.fullmatch(r"1|n\d+", a)]
        sizes |= {a: int(a.lstrip("n")) for a in numbers}
        known = math.prod(sizes[a] for a in letters if a in sizes)
        free = [a for a in letters if a not in sizes]
        if len(free) > 1 or size % known or (not free and size != known):
            raise ValueError(f"{what} does not fit our shape {shape}")
        sizes |= {a: size // known for a in free}
    return sizes


def _span(
    letters: Sequence[str],
    sizes: Mapping[str, int],
    wanted: Mapping[str, tuple[int, int]],
    got: dict[str, tuple[int, int]],
) -> tuple[int, int]:
    """The smallest range of a composite axis that holds the wanted ranges.

    Exact as long as letters further out are single; others are got whole.
    """
    low, high = 0, 1
    for a in letters:
        whole = (0, sizes[a])
        got[a] = wanted.get(a, whole) if high - low == 1 else whole
        if high - low == 1:
            low, high = low * sizes[a] + got[a][0], low * sizes[a] + got[a][1]
        else:
            low, high = low * sizes[a], high * sizes[a]
    return low, high


@dataclasses.dataclass(frozen=True)
class View:
    """One leaf of ours in one tensor of theirs, without the axes L and E.

    Attributes:
      theirs, ours: the axes of both sides; `p` is left out of ours.
      sizes: of every letter.
      part: the leaf's number, where `p` numbers leaves.
      lead: how many letters of theirs' first axis are outside of the concatenation.
      offset, total: where the leaf lies in the concatenation, and all of its length.
    """

    theirs: Axes
    ours: Axes
    sizes: Mapping[str, int]
    part: int | None = None
    lead: int = 0
    offset: int = 0
    total: int = 0

    @property
    def length(self) -> int:
        """Of this leaf in the concatenation."""
        return math.prod(self.sizes[a] for a in self.theirs[0][self.lead :])

    def rearrange(
        self, array: np.ndarray, forward: bool, sizes: Mapping[str, int]
    ) -> np.ndarray:
        """Theirs to ours, or ours to theirs; with `p` in front of ours."""
        ours = self.ours if self.part is None else (("p",), *self.ours)
        sides = _text(self.theirs), _text(ours)
        pattern = " -> ".join(sides if forward else reversed(sides))
        letters = {a: n for a, n in sizes.items() if a != "1"}
        return einops.rearrange(array, pattern, **letters)

    def read(
        self, read: Callable[[Slices], np.ndarray], index: Sequence[slice]
    ) -> np.ndarray:
        """Our block at `index`, reading as little of theirs as one range per axis can.

        Args:
          read: slices of theirs -> array.
          index: slices of ours, with start and stop.
        """
        wanted = {
            axis[0]: (s.start, s.stop)
            for axis, s in zip(self.ours, index, strict=True)
            if len(axis) == 1
        }
        if self.part is not None:
            wanted["p"] = (self.part, self.part + 1)
        got: dict[str, tuple[int, int]] = {}
        lead, rest = self.theirs[0][: self.lead], self.theirs[0][self.lead :]
        low, high = _span(lead, self.sizes, wanted, got)
        one = high - low == 1
        inner = _span(rest, self.sizes, wanted if one else {}, got)
        if one:
            first = slice(*(low * self.total + self.offset + i for i in inner))
        else:
            first = slice(low * self.total, high * self.total)
        others = (_span(a, self.sizes, wanted, got) for a in self.theirs[1:])
        array = read((first, *(slice(*span) for span in others)))
        if not one:
            array = array.reshape(high - low, self.total, *array.shape[1:])
            array = array[:, self.offset : self.offset + self.length]
            array = array.reshape(-1, *array.shape[2:])
        lengths = {a: high - low for a, (low, high) in got.items()}
        array = self.rearrange(array, True, lengths)
        if self.part is not None:
            array = array[self.part - got["p"][0]]
        cut = tuple(
            slice(s.start - got[axis[0]][0], s.stop - got[axis[0]][0])
            if len(axis) == 1
            else s
            for axis, s in zip(self.ours, index, strict=True)
        )
        return array[cut]


@dataclasses.dataclass(frozen=True)
class Bound:
    """An entry in one place of a model: which tensors, which leaves.

    Attributes:
      name: the entry's, with {l} and {e}.
      paths: of our leaves.
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
        """Of each of their tensors."""
        view = self.views[0]
        lead = math.prod(view.sizes[a] for a in view.theirs[0][: view.lead])
        others = (math.prod(view.sizes[a] for a in axis) for axis in view.theirs[1:])
        return (lead * view.total, *others)

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every index of the stacked axes, lazily."""
        return itertools.product(*map(range, self.stacked))

    def tensor(self, index: tuple[int, ...]) -> str:
        """Their name of what lies at `index` of the stacked axes."""
        values = list(index)
        experts = values.pop() if "{e}" in self.name else 0
        layer = self.base + self.step * (values[0] if values else 0)
        return self.name.replace("{l}", str(layer)).replace("{e}", str(experts))

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Their tensor from our leaves, each at one index of the stacked axes."""
        first = self.views[0]
        if first.part is not None:
            return first.rearrange(np.stack(arrays), False, first.sizes)
        parts = []
        for view, array in zip(self.views, arrays, strict=True):
            theirs = view.rearrange(array, False, view.sizes)
            parts.append(theirs.reshape(-1, view.length, *theirs.shape[1:]))
        return np.concatenate(parts, axis=1).reshape(self.shape)


def _views(entry: Entry, shapes: Sequence[Shape]) -> tuple[View, ...]:
    """The views of an entry whose leaves have these shapes, less L and E."""
    what = f"table entry {entry.name!r}, pattern {entry.pattern!r},"
    if isinstance(entry.pattern, str):
        theirs, ours = map(_axes, entry.pattern.split("->"))
        many = not isinstance(entry.leaf, str)
        ours = ours[1:] if many else ours
        if len(set(shapes)) > 1:
            raise ValueError(f"{what} has leaves of unlike shapes {shapes}")
        sizes = _sizes(ours, shapes[0], what) | {"1": 1}
        if many:
            sizes["p"] = len(shapes)
        view = View(theirs, ours, sizes)
        view = dataclasses.replace(view, total=view.length)
        if not many:
            return (view,)
        return tuple(dataclasses.replace(view, part=p) for p in range(len(shapes)))
    views, total = [], 0
    for pattern, shape in zip(entry.pattern, shapes, strict=True):
        theirs, ours = map(_axes, pattern.split("->"))
        sizes = _sizes(ours, shape, what) | {"1": 1}
        lead = len(entry.inside.split())
        view = View(theirs, ours, sizes, lead=lead, offset=total)
        views.append(view)
        total += view.length
    return tuple(dataclasses.replace(v, total=total) for v in views)


def bind(table: Table, shapes: Mapping[str, Shape]) -> list[Bound]:
    """The table's entries that this model has.

    Args:
      table: of the model's config.
      shapes: of every leaf of the model, by path.

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
            + "; this family cannot say such a model"
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
