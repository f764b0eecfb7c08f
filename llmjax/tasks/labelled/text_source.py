"""Labelled texts of records, one or two in a row, cut to its length."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmjax.data.store.records import RecordSource
from llmjax.tasks.labelled.pairs import longest_first

Ids = tuple[np.ndarray, ...]  # of the tokens of one text, or of two


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Examples {"texts": ids of one text or two, "label"}; picklable.

    Of a text that is longer than a row its end is cut off, or its beginning; of two the
    longer one loses tokens first, as in transformers.

    Attributes:
      read: index -> ids.
      sizes: int64 [len, texts], tokens of each.
      labels: [len, ...].
      room: tokens of a row's texts together.
      side: the end that is cut off, "left" or "right".
    """

    read: Callable[[int], Ids]
    sizes: np.ndarray
    labels: np.ndarray
    room: int
    side: str = "right"

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the texts of each, int64 [len]."""
        return np.minimum(self.sizes.sum(1), self.room)

    @property
    def cut(self) -> int:
        """How many are longer than a row."""
        return int(np.count_nonzero(self.sizes.sum(1) > self.room))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        texts = cut(self.read(index), self.room, self.side)
        return {"texts": texts, "label": self.labels[index]}


def cut(texts: Ids, room: int, side: str) -> Ids:
    """A text, or two, that have `room` tokens together; see `LabelledTexts`."""
    sizes = [min(len(texts[0]), room)]
    if len(texts) > 1:
        sizes = [*longest_first(len(texts[0]), len(texts[1]), room)]
    left = side == "left"
    return tuple(
        ids[len(ids) - n :] if left else ids[:n]
        for ids, n in zip(texts, sizes, strict=True)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FieldTexts:
    """Ids of some fields of records; picklable.

    Attributes:
      records: of a split.
      fields: of texts.
      places: of the records that are read.
    """

    records: RecordSource
    fields: tuple[str, ...]
    places: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each text of each, int64 [len, texts]."""
        sizes = [self.records.field_lengths(name) for name in self.fields]
        return np.stack(sizes, axis=1)[self.places]

    def __call__(self, index: int) -> Ids:
        record = self.records[int(self.places[index])]
        return tuple(record[name].ids for name in self.fields)


@dataclasses.dataclass(frozen=True, eq=False)
class ListedTexts:
    """Ids in memory."""

    rows: Sequence[Ids]

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each text of each, int64 [len, texts]."""
        sizes = [[len(ids) for ids in row] for row in self.rows]
        return np.array(sizes, np.int64).reshape(len(sizes), -1)

    def __call__(self, index: int) -> Ids:
        return self.rows[index]
