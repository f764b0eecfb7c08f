"""Metrics and predictions of a split, each example once."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel.processes import distributed
from llmjax.tasks.task import Predictions
from llmjax.train.metrics import finite
from llmjax.train.setup import Batches, HostBatch, Program


def evaluate(
    program: Program,
    params: Any,
    batches: Batches,
    frozen: Any = None,
    extra: Any = None,
) -> dict[str, float]:
    """Every metric of the task over `batches`, without dropout; see `totals`."""
    values = means([totals(program, params, batches, frozen, extra)])
    return values | program.task.derived(values)


def totals(
    program: Program,
    params: Any,
    batches: Batches,
    frozen: Any = None,
    extra: Any = None,
) -> dict[str, tuple[float, float]]:
    """(sum, count) of every metric over `batches`: all examples of the split once.

    Raises NotFiniteError where one is not finite.

    Args:
      program: from `setup.build`.
      params, frozen, extra: as in a `State`; frozen None: those of the program.
      batches: of a split; `train.eval_batches` are read (None: all).
    """
    frozen = _given(program) if frozen is None else frozen
    extra = {} if extra is None else extra
    sums = []
    with mesh_lib.use(program.mesh):
        for rows in _rows(program, batches):
            sums.append(program.evaluate(params, frozen, extra, program.place(rows)))
    added = _add(jax.device_get(sums))
    plain = {name: total for name, (total, _) in added.items()}
    finite.check(plain, "evaluation", params, program.config.layout.precision)
    return added


def predictions(
    program: Program, params: Any, batches: Batches, frozen: Any = None
) -> Iterator[Predictions]:
    """The task's predictions for every example of `batches` once, a batch at a time.

    All processes get those of all processes, in one order.

    Args:
      program: from `setup.build`.
      params, frozen: as in a `State`; frozen None: those of the program.
      batches: of a split; `train.eval_batches` are read (None: all).
    """
    frozen = _given(program) if frozen is None else frozen
    start = 0
    for rows in _rows(program, batches):
        with mesh_lib.use(program.mesh):
            batch = program.place(rows)
            values = program.predict(params, frozen, batch)
            labels = {name: batch[name] for name in program.task.labels}
            place = batch["valid" if "valid" in batch else "segment_ids"]
            values, labels, place = multihost_utils.process_allgather(
                (values, labels, place), tiled=True
            )
        # places that hold an example, [B] or [B, G]; without `valid`, rows
        valid = place > 0 if "valid" in rows else (place > 0).any(axis=1)
        ids = start + np.arange(valid.size).reshape(valid.shape)
        start += valid.size
        yield Predictions(
            ids[valid],
            jax.tree.map(lambda x, valid=valid: x[valid], values),
            {name: x[valid] for name, x in labels.items()},
        )


def means(metrics: list[Any]) -> dict[str, float]:
    """Mean of each metric, sum / count over a list of {name: (sum, count)}."""
    return {k: value / max(count, 1) for k, (value, count) in _add(metrics).items()}


def _add(metrics: list[Any]) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    for one in metrics:
        for name, (value, count) in one.items():
            before = out.get(name, (0.0, 0.0))
            out[name] = before[0] + float(value), before[1] + float(count)
    return out


def _given(program: Program) -> dict[str, Any]:
    """The frozen trees that a program was built with."""
    return {name: tree.values for name, tree in program.frozen.items()}


def _rows(program: Program, batches: Batches) -> Iterable[HostBatch]:
    own = distributed.share(program.mesh)
    return batches.evaluation(*own, program.config.train.eval_batches)
