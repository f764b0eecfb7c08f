"""The rows of one source, epoch after epoch, filled with its features."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmjax.config import DataConfig
from llmjax.data.batches import packing, streams
from llmjax.data.batches.index import Index
from llmjax.data.batches.streams import Batch, Feature

Features = Callable[[dict[str, Any], np.random.Generator], dict[str, np.ndarray]]
SMALL = 100_000  # documents whose index stays in memory


@runtime_checkable
class Source(Protocol):
    """Random access to examples, and their token counts without reading them."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [len]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One source of a mixture, with a task's host function.

    Attributes:
      name: the source's name in messages.
      source: documents; `source.lengths` says how many tokens each has.
      features: (example, rng) -> arrays, a pure function. Arrays of one stream have one
        length; see `llmjax.data.batches.streams`. With packing "concat" every array
        lies along the tokens.
      length: of the features of a document of so many tokens; None: the same. With
        "chunk" and "pad" they may have any length.
      weight: its share of the rows; 0: left out.
      max_epochs: how often it may be shown; None: without end.
      declared: features of another shape than [n] or a scalar, or of further streams;
        the others are inferred from the first example.
    """

    name: str
    source: Source
    features: Features
    length: Callable[[int], int] | None = None
    weight: float = 1.0
    max_epochs: float | None = None
    declared: Mapping[str, Feature] = dataclasses.field(default_factory=dict)


class PartRows:
    """The rows of one part, numbered through its epochs.

    Attributes:
      name, weight, max_epochs: the part's.
      packing: of its documents.
      streams: of its features.
      segments: the most documents of a packed row, where a feature has one value per
        document; else 0. The same in every epoch.
    """

    def __init__(self, part: Part, number: int, data: DataConfig, folder: Path):
        """Packs part number `number`, with its index in `folder`."""
        self._part, self._number, self._seed = part, number, data.shuffle_seed
        self.name, self.weight, self.max_epochs = (
            part.name,
            part.weight,
            part.max_epochs,
        )
        lengths = packing.Lengths(part.source.lengths, part.length)
        longest = lengths.longest()
        if longest is None:
            raise ValueError(
                f"{part.name}, a source of {len(part.source)} documents, has no tokens "
                "to batch; look at data.source, data.train_split and data.eval_split"
            )
        self._packed = data.packing in streams.PACKED
        self._length = part.length or (lambda n: n)
        self.packing = _packing(lengths, number, data, folder)
        first = self._make(longest, 0)
        self.streams = streams.Streams(first, data, part.declared)
        self._example(longest, 0)
        self.segments = 0
        if self._packed and self.streams.per_segment:
            _require_whole(part.name, lengths, data.seq_len, self.streams.per_segment)
            self.segments = data.max_segments or lengths.most_in_row(data.seq_len)

    @property
    def cut(self) -> int:
        """Texts of which only the start is read, as a source that clips them counts."""
        cut: int = getattr(self._part.source, "cut", 0)
        return cut

    @functools.cached_property
    def limit(self) -> int | None:
        """Rows of all epochs together; None: without end."""
        if self.max_epochs is None:
            return None
        whole, rest = divmod(self.max_epochs, 1)
        rows = self.packing.before(int(whole))
        return rows + (int(rest * self.packing.rows(int(whole))) if rest else 0)

    def fill(self, out: Batch, places: list[int], first: int) -> None:
        """Writes the rows from `first` on into the rows `places` of `out`."""
        done = 0
        while done < len(places):
            epoch, row = self.packing.locate(first + done)
            count = min(len(places) - done, self.packing.rows(epoch) - row)
            self.fill_from(out, places[done : done + count], row, epoch)
            done += count

    def fill_from(
        self, out: Batch, places: list[int], first: int, epoch: int | None
    ) -> None:
        """Writes the rows from `first` on of one epoch."""
        cut: dict[int, Batch] = {}  # examples with more pieces to come
        for piece in self.packing.pieces(first, first + len(places), epoch):
            example = cut.get(piece.document)
            if example is None:
                example = self._example(piece.document, epoch)
                if self.streams.is_cut(piece, example):
                    cut[piece.document] = example
            self.streams.write(out, places[piece.row], piece, example)

    def _example(self, index: int, epoch: int | None) -> Batch:
        """The checked features of an example."""
        example = self._make(index, epoch)
        length = None
        if self._packed:
            length = self._length(int(self._part.source.lengths[index]))
        try:
            self.streams.check(example, length)
        except ValueError as e:
            raise ValueError(f"example {index} of {self._part.name}: {e}") from e
        return example

    def _make(self, index: int, epoch: int | None) -> Batch:
        """The features of an example; random by seed, epoch, index and part alone."""
        # An evaluation's epoch is none of training's; a single source needs no number.
        number = [self._number] if self._number else []
        key = [self._seed, 0 if epoch is None else epoch + 1, index, *number]
        rng = np.random.default_rng(key)
        features = self._part.features(self._part.source[index], rng)
        return {k: np.asarray(v) for k, v in features.items()}


def _packing(
    lengths: packing.Lengths, number: int, data: DataConfig, folder: Path
) -> packing.Packing:
    """The packing that `data.packing` names, of part number `number`."""
    order = packing.Order(len(lengths), data.shuffle_seed, number)
    if data.packing not in streams.PACKED:
        return packing.Pad(order, data.seq_len)
    index = Index(
        folder if len(lengths) > SMALL else None, keep=3 + SMALL // len(lengths)
    )
    if data.packing == "concat":
        return packing.Concat(lengths, order, data.seq_len, index)
    return packing.FirstFit(
        lengths, order, data.seq_len, data.window, index, data.max_segments
    )


def _require_whole(
    name: str, lengths: packing.Lengths, seq_len: int, features: tuple[str, ...]
) -> None:
    """Raises ValueError where a document is longer than a row, or empty.

    The pieces of a long one would lie in several rows, and its one value with a part
    of its text; an empty one has no place in a row, and its value would be left out.
    """
    start = 0
    for block in lengths.blocks():
        k = int(block.argmin())
        if not block[k]:
            raise ValueError(
                f"document {start + k} of {name} has no tokens, so it has no segment "
                f"of a packed row, but the features {', '.join(features)} are one "
                "value of a whole document; remove it from the source, or set "
                "data.packing='pad'"
            )
        k = int(block.argmax())
        if block[k] > seq_len:
            raise ValueError(
                f"document {start + k} of {name} has {block[k]} tokens and a row "
                f"{seq_len}, but the features {', '.join(features)} are one value of a "
                "whole document; raise data.seq_len, or cut documents in the task's "
                "source (`Clipped`)"
            )
        start += len(block)
