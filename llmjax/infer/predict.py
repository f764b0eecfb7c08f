"""Predictions for rows of a table: in their order, many at a time, of few shapes.

Rows come in chunks. A row is an example of the task, or several where its text is read
in windows. Within a chunk examples of about one length are batched together, so
that each of few lengths is compiled once, and little of a batch is padding. A device
always has a batch of the same size: which texts share it, and so every bit of their
predictions, depends on the rows alone and not on the number of devices.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from llmjax.config import LayoutConfig, RunConfig, Scratch
from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.cleaning import steps
from llmjax.data.files.slices import Row
from llmjax.data.prepare import sources
from llmjax.infer.prompts import doubling
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel.processes import distributed
from llmjax.tasks.task import Objective
from llmjax.train import setup

CHUNK = 1024  # rows that are sorted by length together, and written together


class Predictor:
    """A trained task that answers rows; all processes call it alike.

    Attributes:
      task: of the run.
      cut: texts so far that were longer than the model reads.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Objective,
        params: Any,
        batch_size: int,
        mesh: Mesh | None = None,
    ):
        """Lays the weights on the devices that are here.

        Args:
          config: of the run; texts have rows of their own (`data.packing` "pad") and
            are cut at `data.seq_len`.
          task: bound to `config`, with `inputs`.
          params: the weights of the task's model, frozen ones among them.
          batch_size: rows of a batch on each device.
          mesh: None: over all devices that are here.
        """
        self.task, self.cut = task, 0
        self._cleaning = sources.cleaning(config.data)
        here = config.layout.mesh_fields(LayoutConfig().mesh_sizes)
        layout = dataclasses.replace(config.layout, microbatches=1, **here)
        mesh = mesh or mesh_lib.make_mesh(layout)
        shards = mesh_lib.batch_shards(mesh)
        self._data = dataclasses.replace(config.data, batch_size=batch_size * shards)
        optimizer = dataclasses.replace(config.optimizer, freeze=())
        config = dataclasses.replace(
            config, layout=layout, data=self._data, optimizer=optimizer, init=Scratch()
        )
        source = task.examples(task.questions([task.sample]))
        example = next(self._pipeline(source, self._data.seq_len).evaluation())
        self._program = setup.build(config, task, example, mesh=mesh)
        shardings = self._program.shardings.params
        self._params = jax.tree.map(distributed.spread, params, shardings)
        self._sizes = doubling(self._data.seq_len, layout.attention)

    def __call__(self, rows: Sequence[Row], columns: Mapping[str, str]) -> list[Any]:
        """The answer to each row, as the task's `answers` gives it.

        Args:
          rows: with texts in all `columns`, which are cleaned as the run's were, or
            lists of words, which are taken as they are.
          columns: each of the task's `inputs` -> its column.

        Raises:
          ValueError: a row without a token; it names its place.
        """
        task = self.task
        texts = [self._read(row, columns) for row in rows]
        source = task.examples(task.questions(texts))
        needed = np.array([task.length(int(n)) for n in source.lengths], np.int64)
        if not needed.all():
            owners = getattr(source, "owners", range(len(rows)))
            raise ValueError(
                f"{rows[owners[int(needed.argmin())]].where()}: the text is empty, and "
                "this model's tokenizer puts no token around it; take the row out"
            )
        self.cut += getattr(source, "cut", 0)
        sizes = self._sizes[np.searchsorted(self._sizes, needed)]
        decoded: list[Any] = [None] * len(source)
        for size in np.unique(sizes):
            places = np.flatnonzero(sizes == size)
            values = self._values(_Chosen(source, places), int(size))
            for place, value in zip(places, task.decode(values, None), strict=True):
                decoded[place] = value
        return task.answers(source, decoded)

    def _read(self, row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
        """The inputs of a row.

        Raises:
          ValueError: the task can't read one; it names the place.
        """
        try:
            return self.task.read_row(
                {k: self._clean(row.values[c]) for k, c in columns.items()}
            )
        except ValueError as e:
            raise ValueError(f"{row.where()}: {e}") from None

    def _clean(self, value: Any) -> Any:
        """A text as those of the run, or words as they are."""
        if isinstance(value, str):
            return steps.clean(value, self._cleaning)
        return value

    def _pipeline(self, source: Source, size: int) -> Pipeline:
        """Batches of examples, each in a row of `size` tokens."""
        task, data = self.task, dataclasses.replace(self._data, seq_len=size)
        return Pipeline(
            source, task.features, data, task.length, declared=task.declared
        )

    def _values(self, source: Source, size: int) -> Any:
        """The predictions of examples of about one length, on the host."""
        program, parts = self._program, []
        with mesh_lib.use(program.mesh):
            own = distributed.share(program.mesh)
            for batch in self._pipeline(source, size).evaluation(*own):
                placed = program.place(batch)
                parts.append(program.predict(self._params, {}, placed))
            if jax.process_count() > 1:
                parts = multihost_utils.process_allgather(parts, tiled=True)
        parts = jax.device_get(parts)
        joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        return jax.tree.map(lambda x: x[: len(source)], joined)


@dataclasses.dataclass(frozen=True, eq=False)
class _Chosen:
    """The examples of a source at some places."""

    source: Source
    places: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.source.lengths[self.places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return self.source[int(self.places[index])]


def fingerprint(config: RunConfig, task: Objective, params: Any) -> str:
    """A hash of all that predictions follow from, besides the rows.

    Args:
      config, task: of the run.
      params: its weights, whole on this process.
    """
    said = [config.model, config.task, sources.cleaning(config.data)]
    tokenizer = getattr(task.vocabulary, "fingerprint", "")
    digest = hashlib.sha256(json.dumps([*map(repr, said), tokenizer]).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        value = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def chunks(
    rows: Iterator[Row], start: int, size: int | None = None
) -> Iterator[list[Row]]:
    """Rows from number `start` on, `size` of them at a time (None: `CHUNK`); `start` is
    a chunk's."""
    size = size or CHUNK
    assert start % size == 0
    rows = itertools.islice(rows, start, None)
    while chunk := [*itertools.islice(rows, size)]:
        yield chunk
