"""The global batch as a pure function of (seed, step)."""

import bisect
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from etils import epath

from llmjax.config import DataConfig, Explicit, wording
from llmjax.data.batches import curriculum, interleaving, streams
from llmjax.data.batches.rows import Features, Part, PartRows, Source
from llmjax.data.batches.streams import Batch, Feature


class Pipeline:
    """Sources -> features -> packed rows -> mixture -> batch number `step`.

    A batch has each feature per token as [rows, seq_len, …], and [rows, seq_len] int32
    `segment_ids` (1, 2, .. within a row, 0 for padding) and `positions` (from 0 in each
    segment); the same of each further stream. Features per document are [rows, …] with
    packing "chunk" or "pad", and int32 `valid` [rows] is 0 for a row that only fills
    the batch up. With packing "first_fit" they are [rows, G, …], and `valid` [rows, G]:
    G is the most documents of a row, and index g has the document whose segment id is
    g + 1.

    The rows of a run are numbered through. The mixture says which source a row belongs
    to, the source's packing what lies in it, epoch after epoch, and the curriculum at
    which step it is shown. None of them knows of processes.
    """

    def __init__(
        self,
        source: Source,
        features: Features,
        data: DataConfig,
        length: Callable[[int], int] | None = None,
        declared: Mapping[str, Feature] | None = None,
    ):
        """Batches of a single source: `Part` has the arguments, `of` the errors."""
        part = Part("data.source", source, features, length, declared=declared or {})
        self._bind((part,), data, None)

    @classmethod
    def of(
        cls,
        parts: Sequence[Part],
        data: DataConfig,
        index_dir: epath.PathLike | None = None,
    ) -> "Pipeline":
        """Batches of a mixture by `data.weighting`.

        Args:
          parts: the sources; all features have the same names and dtypes.
          data: batch_size and seq_len, their curricula, packing, its window and
            max_segments, weighting, shuffle_seed and prefetch are read.
          index_dir: where the index of a large source is kept; None: in
            `data.directory`.

        Raises:
          ValueError: a source is empty, the features of an example don't fit the
            packing, or those of two parts each other.
        """
        self = cls.__new__(cls)
        self._bind(tuple(parts), data, index_dir)
        return self

    def _bind(
        self,
        parts: tuple[Part, ...],
        data: DataConfig,
        index_dir: epath.PathLike | None,
    ) -> None:
        self._arguments = parts, data, index_dir
        self._data = data
        self._curriculum = curriculum.Curriculum(data)
        drawn = [p.weight != 0 or data.weighting != Explicit() for p in parts]
        if not any(drawn):
            interleaving.Interleaving(
                [part.weight for part in parts]
            )  # raises, naming the weights
        folder = _local(index_dir or f"{data.directory}/index")
        self._parts = [
            PartRows(part, k, data, folder) for k, part in enumerate(parts) if drawn[k]
        ]
        self._streams = self._parts[0].streams
        for other in self._parts[1:]:
            mine, others = self._streams.features, other.streams.features
            if differences := streams.differences(mine, others):
                raise ValueError(
                    f"{self._parts[0].name} and {other.name} can't be mixed, as of the "
                    f"features {differences}; accepted: the same names and dtypes"
                )
        self._segments = max(part.segments for part in self._parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, self._arguments

    @functools.cached_property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch, which shows every example once."""
        return sum(part.packing.rows(0) for part in self._parts)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The examples of each part, in the order in which an evaluation shows them."""
        return tuple(part.source for part in self._arguments[0])

    @functools.cached_property
    def cut(self) -> int:
        """Texts of which only the start is read."""
        return sum(part.cut for part in self._parts)

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each source is gone through in so many steps, by its name."""
        rows = self._interleaving.before(self._curriculum.first_row(steps)).tolist()
        return {
            part.name: count / part.packing.rows(0)
            for part, count in zip(self._parts, rows, strict=True)
        }

    @functools.cached_property
    def eval_batches(self) -> int:
        """Batches that `evaluation` yields without `max_batches`."""
        rows = sum(part.packing.rows(None) for part in self._parts)
        return -(-rows // self._data.batch_size)

    def check(self, steps: int) -> None:
        """Checks that every source lasts for so many steps.

        Raises:
          ValueError: one runs dry; says when, and what to do.
        """
        first_row = self._curriculum.first_row
        drawn = self._interleaving.before(first_row(steps)).tolist()
        for k, (part, rows) in enumerate(zip(self._parts, drawn, strict=True)):
            limit = part.limit
            if limit is None or rows <= limit:
                continue

            def dry(step: int, k: int = k, limit: int = limit) -> bool:
                return bool(self._interleaving.before(first_row(step + 1))[k] > limit)

            last = bisect.bisect_left(range(steps), True, key=dry)
            raise ValueError(
                f"{part.name} runs dry: it has {wording.count(limit, 'row')} in "
                f"max_epochs={part.max_epochs:g}, and {steps} steps ask for {rows} of "
                "them; raise its max_epochs, lower its weight, or set train.steps to "
                f"{last} or fewer"
            )

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """This process's rows of the global batch of `step`, the same on every call.

        Raises:
          ValueError: its size is not a multiple of `process_count`, or a source with
            `max_epochs` is used up.
        """
        size = self._curriculum.batch_size(step)
        first, last = _share(size, process_index, process_count)
        start = self._curriculum.first_row(step)
        if self._bounded:
            self.check(step + 1)
        out = self._streams.empty(last - first, self._segments)
        owners = self._interleaving.sources(start + first, start + last)
        begin = self._interleaving.before(start + first).tolist()
        for k, part in enumerate(self._parts):
            places = np.flatnonzero(owners == k).tolist()
            part.fill(out, places, begin[k])
        return curriculum.cut(out, self._curriculum.seq_len(step))

    def evaluation(
        self,
        process_index: int = 0,
        process_count: int = 1,
        max_batches: int | None = None,
    ) -> Iterator[Batch]:
        """Batches that show each example once, a source after the other.

        In the source's order, but for what packing "first_fit" moves. All of one shape:
        rows of zeros fill the last one up.

        Raises:
          ValueError: batch_size is not a multiple of `process_count`.
        """
        first, last = _share(self._data.batch_size, process_index, process_count)
        return self._evaluate(first, last, max_batches)

    def prefetch(
        self,
        start: int,
        stop: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for start <= step < stop, computed ahead by grain.

        In threads, or in `data.prefetch_processes` processes: then sources and features
        must be picklable.

        Raises:
          ValueError: a batch size is not a multiple of `process_count`.
        """
        for size in self._curriculum.batch_sizes:
            _share(size, process_index, process_count)
        make = functools.partial(_numbered, self, process_index, process_count)
        ahead, processes = self._data.prefetch, self._data.prefetch_processes
        if not ahead or stop <= start:
            return map(make, range(start, stop))
        steps = grain.MapDataset.range(start, stop).map(make)
        if not processes:
            return iter(steps.to_iter_dataset(grain.ReadOptions(min(ahead, 2), ahead)))
        if not flags.FLAGS.is_parsed():  # outside of an absl main; grain reads its own
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(processes, -(-ahead // processes))
        one = grain.ReadOptions(1, 1)
        return _closing(iter(steps.to_iter_dataset(one).mp_prefetch(options)))

    @functools.cached_property
    def _interleaving(self) -> interleaving.Interleaving:
        if len(self._parts) == 1:
            return interleaving.Interleaving([1.0])
        weighting = self._data.weighting
        explicit = weighting == Explicit()
        rows = [1 if explicit else part.packing.rows(0) for part in self._parts]
        weights = [part.weight for part in self._parts]
        return interleaving.Interleaving(interleaving.shares(weighting, weights, rows))

    @functools.cached_property
    def _bounded(self) -> bool:
        return any(part.max_epochs is not None for part in self._parts)

    def _evaluate(self, first: int, last: int, limit: int | None) -> Iterator[Batch]:
        count = self.eval_batches if limit is None else min(limit, self.eval_batches)
        for k in range(count):
            start = k * self._data.batch_size + first
            stop = k * self._data.batch_size + last
            out = self._streams.empty(last - first, self._segments)
            before = 0
            for part in self._parts:
                rows = part.packing.rows(None)
                a, b = (min(max(r - before, 0), rows) for r in (start, stop))
                at = before + a - start
                part.fill_from(out, [*range(at, at + b - a)], a, None)
                before += rows
            yield out


def _share(size: int, process_index: int, process_count: int) -> tuple[int, int]:
    """The rows [first, last) of a batch of `size` that are a process's."""
    if process_count < 1 or size % process_count:
        raise ValueError(
            f"data.batch_size={size} is not a multiple of the {process_count} "
            "processes that share it; change data.batch_size or data.batch_sizes"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index={process_index} is not in [0, {process_count})"
        )
    rows = size // process_count
    return process_index * rows, (process_index + 1) * rows


def _local(folder: epath.PathLike) -> Path:
    """The folder, or a local one for a bucket, whose files cannot be mapped."""
    if "://" in str(folder):
        folder = "~/.cache/llmjax/index"
    return Path(folder).expanduser()


def _reopened(*arguments: Any) -> Pipeline:
    return Pipeline.of(*arguments)


def _numbered(
    pipeline: Pipeline, process_index: int, process_count: int, step: int
) -> tuple[int, Batch]:
    return step, pipeline.batch(step, process_index, process_count)


def _closing(batches: Any) -> Iterator[tuple[int, Batch]]:
    """The batches; grain's processes end with the iteration."""
    try:
        yield from batches
    finally:
        batches.close()
