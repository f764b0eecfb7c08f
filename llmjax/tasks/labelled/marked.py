"""Texts whose two entities are marked, cut to a row around them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.store.records import EncodedText, RecordSource

Range = tuple[int, int]  # first, and behind the last


class Marked(NamedTuple):
    """A text and its two entities, as ranges of tokens that may be empty."""

    ids: np.ndarray
    head: Range
    tail: Range


class Markers(NamedTuple):
    """Ids around the head and around the tail."""

    head: tuple[int, int]
    tail: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedTexts:
    """Examples {"marked": Marked, "label": number}; picklable.

    Attributes:
      read: index -> the whole text.
      sizes: int64 [len], tokens of each.
      labels: int [len].
      room: tokens of a text in a row, without markers and specials.
      names: of each, the characters of its head and its tail; (): not kept.
    """

    read: Callable[[int], Marked]
    sizes: np.ndarray
    labels: np.ndarray
    room: int
    names: Sequence[tuple[str, str]] = ()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each that lie in its row, int64 [len], or a few more."""
        return np.minimum(self.sizes, self.room)

    @property
    def cut(self) -> int:
        """How many are longer than a row."""
        return int(np.count_nonzero(self.sizes > self.room))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        marked = cut(self.read(index), self.room)
        return {"marked": marked, "label": self.labels[index]}


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedRecords:
    """The texts of records; picklable.

    Attributes:
      records: of a split.
      fields: of the text, the head and the tail.
      places: of the records that are read.
    """

    records: RecordSource
    fields: tuple[str, str, str]
    places: np.ndarray

    def __call__(self, index: int) -> Marked:
        record = self.records[int(self.places[index])]
        text, head, tail = (record[name] for name in self.fields)
        (a, b), (c, d) = head[0, :2].tolist(), tail[0, :2].tolist()
        return marked(text, (a, b), (c, d))


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedList:
    """Texts in memory."""

    texts: Sequence[Marked]

    def __call__(self, index: int) -> Marked:
        return self.texts[index]


def marked(text: EncodedText, head: Range, tail: Range) -> Marked:
    """A text with the tokens of two spans of characters.

    A token with characters of both spans is of the one that begins first.
    """
    first, second = sorted((head, tail))
    a, b = text.covering(*first), text.covering(*second)
    b = max(a[1], b[0]), max(a[1], b[1])
    return Marked(text.ids, a, b) if head == first else Marked(text.ids, b, a)


def fault(text: str, head: Sequence[Range], tail: Sequence[Range]) -> str:
    """What is wrong with the entities of a text, as "has …"; "": nothing."""
    for name, spans in (("head", head), ("tail", tail)):
        if len(spans) != 1:
            return f"has {len(spans)} spans for its {name}; accepted: one"
        start, stop = spans[0]
        if not text[start:stop].strip():
            return f"has the {name} [{start}, {stop}), which is white space alone"
    (a, b), (c, d) = sorted((head[0], tail[0]))
    if c < b:
        return f"has entities that overlap, [{a}, {b}) and [{c}, {d})"
    return ""


def cut(text: Marked, room: int) -> Marked:
    """A text of `room` tokens at most: what lies around its entities.

    Where they are further apart, half of the room is around each, and what lies between
    is left out; of an entity that is longer than that, its end.
    """
    size = len(text.ids)
    if size <= room:
        return text
    first, second = sorted((text.head, text.tail))
    start, stop = first[0], second[1]
    if stop - start <= room:
        begin = min(max(0, start - (room - (stop - start)) // 2), size - room)
        kept = [(begin, begin + room)]
    else:
        half = room // 2
        right = _around(second, half, size)
        left = _around(first, half, size)
        kept = [(left[0], min(left[1], right[0])), right]
    ids = np.concatenate([text.ids[a:b] for a, b in kept])
    head, tail = (_moved(e, kept) for e in (text.head, text.tail))
    return Marked(ids, head, tail)


def _around(entity: Range, room: int, size: int) -> Range:
    """`room` tokens with an entity in their middle, or its beginning."""
    start, stop = entity
    begin = start - max(0, room - (stop - start)) // 2
    begin = min(max(0, begin), size - room)
    return begin, begin + room


def _moved(entity: Range, kept: Sequence[Range]) -> Range:
    """Where an entity lies in the ranges of tokens that are kept, end to end."""
    before = 0
    for a, b in kept:
        if a <= entity[0] <= b and entity[0] < max(b, a + 1):
            return before + entity[0] - a, before + min(entity[1], b) - a
        before += b - a
    return before, before


def with_markers(
    text: Marked, markers: Markers, pooling: str
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens with four markers, and the number of the entity that a token stands
    for: 1 of the head, 2 of the tail, else 0; both int32 [n + 4].

    With pooling "start", and for an entity without a token, its first marker does.
    """
    parts: list[Any] = []
    numbers: list[Any] = []
    entities = [(text.head, markers.head, 1), (text.tail, markers.tail, 2)]
    place = 0
    for (start, stop), (opens, closes), number in sorted(entities):
        inside = text.ids[start:stop]
        at_start = pooling == "start" or not len(inside)
        parts += [text.ids[place:start], [opens], inside, [closes]]
        numbers += [
            np.zeros(start - place),
            [number if at_start else 0],
            np.full(len(inside), 0 if at_start else number),
            [0],
        ]
        place = stop
    parts.append(text.ids[place:])
    numbers.append(np.zeros(len(text.ids) - place))
    return np.concatenate(parts).astype(np.int32), np.concatenate(numbers).astype(
        np.int32
    )
