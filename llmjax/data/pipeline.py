"""The global batch as a pure function of (seed, step)."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np

from llmjax.config import DataConfig
from llmjax.data import packing

Batch = dict[str, np.ndarray]
Features = Callable[[dict[str, Any], np.random.Generator], dict[str, np.ndarray]]
_OWN = ("segment_ids", "positions", "valid")


@runtime_checkable
class Source(Protocol):
    """Random access to examples whose token counts are known without reading them."""

    @property
    def lengths(self) -> np.ndarray:
        """int64 [len]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class Pipeline:
    """Source -> features -> packed rows -> batch number `step`.

    A batch has every sequence feature as [rows, seq_len], int32 `segment_ids` (1, 2, ..
    within a row, 0 for padding) and int32 `positions` (from 0 in each segment) of the
    same shape; with packing="pad" also every scalar as [rows] and int32 `valid` [rows]
    (0: a row that only fills the batch up).

    Attributes:
      rows_per_epoch: rows that show every example once.
      eval_batches: batches that `evaluation` yields without `max_batches`.
    """

    def __init__(
        self,
        source: Source,
        features: Features,
        data: DataConfig,
        length: Callable[[int], int] | None = None,
    ):
        """Binds a source to a task's host function.

        Args:
          source: documents; `source.lengths` says how many tokens each has.
          features: (example, rng) -> arrays [n], all of one length, and with
            packing="pad" also scalars (0-d). A pure function of its arguments.
          data: batch_size, seq_len, packing, shuffle_seed and prefetch are read.
          length: how long the arrays of a document of so many tokens are; None: as
            many.

        Raises:
          ValueError: the source or all its documents are empty, or `features` breaks
            its promise.
        """
        self._source, self._features, self._data = source, features, data
        self._lengths = _feature_lengths(source.lengths, length)
        if not self._lengths.sum():
            raise ValueError(
                f"a source of {len(source)} documents has no tokens to batch; "
                "look at data.source, data.train_split and data.eval_split"
            )
        pack = packing.Concat if data.packing == "concat" else packing.Pad
        self._packing: packing.Packing = pack(
            self._lengths, data.seq_len, data.shuffle_seed
        )
        self.rows_per_epoch: int = self._packing.rows
        self.eval_batches = -(-self.rows_per_epoch // data.batch_size)
        self._template = {
            k: (v.ndim, v.dtype)
            for k, v in self._example(int(self._lengths.argmax()), 0).items()
        }
        if data.packing == "concat":
            scalars = [k for k, (ndim, _) in self._template.items() if ndim == 0]
            if scalars:
                raise ValueError(
                    f"the features {', '.join(scalars)} are one value per document, "
                    "but data.packing='concat' puts several documents into a row; "
                    "set data.packing='pad'"
                )

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """This process's rows of the global batch of `step`, the same on every call.

        Raises:
          ValueError: batch_size is not a multiple of `process_count`.
        """
        first, last = self._rows(process_index, process_count)
        B, R = self._data.batch_size, self.rows_per_epoch
        out = self._empty(last - first)
        row, end = step * B + first, step * B + last
        filled = 0
        while row < end:  # a batch may reach into the next epoch
            epoch, start = divmod(row, R)
            stop = min(start + end - row, R)
            self._fill(out, filled, start, stop, epoch)
            filled += stop - start
            row += stop - start
        return out

    def evaluation(
        self,
        process_index: int = 0,
        process_count: int = 1,
        max_batches: int | None = None,
    ) -> Iterator[Batch]:
        """Batches that show each example once, in the source's order.

        All of one shape: rows of zeros fill the last one up.

        Raises:
          ValueError: batch_size is not a multiple of `process_count`.
        """
        first, last = self._rows(process_index, process_count)
        return self._evaluate(first, last, max_batches)

    def prefetch(
        self,
        start: int,
        stop: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for start <= step < stop, made ahead by grain's threads.

        Raises:
          ValueError: batch_size is not a multiple of `process_count`.
        """
        self._rows(process_index, process_count)

        def make(step: int) -> tuple[int, Batch]:
            return step, self.batch(step, process_index, process_count)

        ahead = self._data.prefetch
        if not ahead or stop <= start:
            return map(make, range(start, stop))
        options = grain.ReadOptions(
            num_threads=min(ahead, 2), prefetch_buffer_size=ahead
        )
        dataset = grain.MapDataset.range(start, stop).map(make)
        return iter(dataset.to_iter_dataset(options))

    def _evaluate(self, first: int, last: int, limit: int | None) -> Iterator[Batch]:
        count = self.eval_batches if limit is None else min(limit, self.eval_batches)
        for k in range(count):
            start = min(k * self._data.batch_size + first, self.rows_per_epoch)
            stop = min(k * self._data.batch_size + last, self.rows_per_epoch)
            out = self._empty(last - first)
            self._fill(out, 0, start, stop, None)
            yield out

    def _rows(self, process_index: int, process_count: int) -> tuple[int, int]:
        """This process's rows [first, last) of a global batch."""
        B = self._data.batch_size
        if process_count < 1 or B % process_count:
            raise ValueError(
                f"data.batch_size={B} is not a multiple of the {process_count} "
                "processes that share it; change data.batch_size"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index={process_index} is not in [0, {process_count})"
            )
        rows = B // process_count
        return process_index * rows, (process_index + 1) * rows

    def _empty(self, rows: int) -> Batch:
        shape = (rows, self._data.seq_len)
        out = {
            k: np.zeros(shape if ndim else rows, dtype)
            for k, (ndim, dtype) in self._template.items()
        }
        out["segment_ids"] = np.zeros(shape, np.int32)
        out["positions"] = np.zeros(shape, np.int32)
        if self._data.packing == "pad":
            out["valid"] = np.zeros(rows, np.int32)
        return out

    def _fill(
        self, out: Batch, at: int, start: int, stop: int, epoch: int | None
    ) -> None:
        """Writes rows [start, stop) of an epoch into `out` from row `at` on."""
        made: dict[int, dict[str, np.ndarray]] = {}
        for piece in self._packing.pieces(start, stop, epoch):
            if piece.document not in made:
                made = {piece.document: self._example(piece.document, epoch)}
            row, n = at + piece.row, piece.stop - piece.start
            here = slice(piece.column, piece.column + n)
            for k, value in made[piece.document].items():
                if value.ndim:
                    out[k][row, here] = value[piece.start : piece.stop]
                else:
                    out[k][row] = value
            out["segment_ids"][row, here] = piece.segment
            out["positions"][row, here] = np.arange(n)
            if "valid" in out:
                out["valid"][row] = 1

    def _example(self, index: int, epoch: int | None) -> dict[str, np.ndarray]:
        """The features of an example; their randomness hangs on nothing else."""
        # An evaluation's epoch is none of training's.
        key = [self._data.shuffle_seed, 0 if epoch is None else epoch + 1, index]
        rng = np.random.default_rng(key)
        made = self._features(self._source[index], rng)
        made = {k: np.asarray(v) for k, v in made.items()}
        wanted = int(self._lengths[index])
        for k, value in made.items():
            if k in _OWN:
                raise ValueError(f"the feature {k!r} is the pipeline's own; rename it")
            if value.ndim > 1 or (value.ndim == 1 and len(value) != wanted):
                raise ValueError(
                    f"the feature {k!r} of document {index} has the shape "
                    f"{value.shape}; accepted: [{wanted}], as `length` foretold from "
                    f"its {self._source.lengths[index]} tokens, or a scalar"
                )
        return made


def _feature_lengths(
    lengths: np.ndarray, length: Callable[[int], int] | None
) -> np.ndarray:
    if length is None:
        return np.asarray(lengths, np.int64)
    distinct, inverse = np.unique(lengths, return_inverse=True)
    return np.array([length(int(n)) for n in distinct], np.int64)[inverse]
