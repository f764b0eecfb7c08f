"""The rows of one source, epoch after epoch, as its features fill them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmjax.config import DataConfig
from llmjax.data.batches import packing, streams
from llmjax.data.batches.index import Index
from llmjax.data.batches.streams import Batch

Features = Callable[[dict[str, Any], np.random.Generator], dict[str, np.ndarray]]
SMALL = 100_000  # documents whose index stays in memory


@runtime_checkable
class Source(Protocol):
    """Random access to examples whose token counts are known without reading them."""

    @property
    def lengths(self) -> np.ndarray:
        """int64 [len]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One source of a mixture, with a task's host function.

    Attributes:
      name: by which messages call it.
      source: documents; `source.lengths` says how many tokens each has.
      features: (example, rng) -> arrays, and with packing "chunk" or "pad" also scalars
        (0-d). A pure function of its arguments. Arrays of one stream have one length;
        see `llmjax.data.batches.streams`.
      length: how long they are for a document of so many tokens; None: as long as it.
        With "chunk" and "pad" they may have any length.
      weight: its share of the rows; 0: as if it were not there.
      max_epochs: how often it may be shown; None: without end.
    """

    name: str
    source: Source
    features: Features
    length: Callable[[int], int] | None = None
    weight: float = 1.0
    max_epochs: float | None = None


class Rows:
    """The rows of one part, numbered through its epochs.

    Attributes:
      name, weight, max_epochs: the part's.
      packing: of its documents.
      streams: of its features.
    """

    def __init__(self, part: Part, number: int, data: DataConfig, folder: Path):
        """`number` of the part, `folder` of the index."""
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
        self._foretold = data.packing in streams.PACKED
        self._length = part.length or (lambda n: n)
        order = packing.Order(len(lengths), data.shuffle_seed, number)
        index = Index(
            folder if len(lengths) > SMALL else None, keep=3 + SMALL // len(lengths)
        )
        T = data.seq_len
        self.packing: packing.Packing
        if data.packing == "concat":
            self.packing = packing.Concat(lengths, order, T, index)
        elif data.packing == "first_fit":
            self.packing = packing.FirstFit(lengths, order, T, data.window, index)
        else:
            self.packing = packing.Pad(order, T)
        self.streams = streams.Streams(self._make(longest, 0), data)
        self._example(longest, 0)

    @functools.cached_property
    def limit(self) -> int | None:
        """How many rows there are in all; None: without end."""
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
        """The same of one epoch."""
        again: dict[int, Batch] = {}  # cut: there may be more pieces of them here
        for piece in self.packing.pieces(first, first + len(places), epoch):
            example = again.get(piece.document)
            if example is None:
                example = self._example(piece.document, epoch)
                if self.streams.is_cut(piece, example):
                    again[piece.document] = example
            self.streams.write(out, places[piece.row], piece, example)

    def _example(self, index: int, epoch: int | None) -> Batch:
        """The features of an example; their randomness hangs on nothing else."""
        example = self._make(index, epoch)
        wanted = None
        if self._foretold:
            wanted = self._length(int(self._part.source.lengths[index]))
        try:
            self.streams.check(example, wanted)
        except ValueError as e:
            raise ValueError(f"example {index} of {self._part.name}: {e}") from e
        return example

    def _make(self, index: int, epoch: int | None) -> Batch:
        # An evaluation's epoch is none of training's; a single source needs no number.
        number = [self._number] if self._number else []
        key = [self._seed, 0 if epoch is None else epoch + 1, index, *number]
        rng = np.random.default_rng(key)
        made = self._part.features(self._part.source[index], rng)
        return {k: np.asarray(v) for k, v in made.items()}
