"""Metrics and predictions of given weights over a split, each example once."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel.processes import distributed
from llmjax.train.setup import Batches, HostBatch, Program


def evaluate(
    program: Program,
    params: Any,
    batches: Batches,
    frozen: Any = None,
    extra: Any = None,
) -> dict[str, float]:
    """Every metric of the task over `batches`, without dropout; see `totals`."""
    return means([totals(program, params, batches, frozen, extra)])


def totals(
    program: Program,
    params: Any,
    batches: Batches,
    frozen: Any = None,
    extra: Any = None,
) -> dict[str, tuple[float, float]]:
    """(sum, count) of every metric over `batches`: all examples of the split once.

    Args:
      program: what `setup.build` gave.
      params, frozen, extra: as in a `State`.
      batches: of which `train.eval_batches` are read (None: all).
    """
    frozen = {} if frozen is None else frozen
    extra = {} if extra is None else extra
    sums = []
    with mesh_lib.use(program.mesh):
        for rows in _rows(program, batches):
            sums.append(program.evaluate(params, frozen, extra, program.place(rows)))
    return _add(jax.device_get(sums))


def predictions(
    program: Program, params: Any, batches: Batches, frozen: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of a task with one label per row: what is predicted and what is right, int [n].

    The same of all processes.
    """
    frozen = {} if frozen is None else frozen
    predicted, right = [], []
    with mesh_lib.use(program.mesh):
        for rows in _rows(program, batches):
            batch = program.place(rows)
            out = program.predict(params, frozen, batch)
            whole = out, batch["label"], batch["valid"]
            out, label, valid = multihost_utils.process_allgather(whole, tiled=True)
            predicted.append(out[valid > 0])
            right.append(label[valid > 0])
    return np.concatenate(predicted), np.concatenate(right)


def means(metrics: list[Any]) -> dict[str, float]:
    """sum / count of each metric over a list of {name: (sum, count)}."""
    return {k: value / max(count, 1) for k, (value, count) in _add(metrics).items()}


def _add(metrics: list[Any]) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    for one in metrics:
        for name, (value, count) in one.items():
            before = out.get(name, (0.0, 0.0))
            out[name] = before[0] + float(value), before[1] + float(count)
    return out


def _rows(program: Program, batches: Batches) -> Iterable[HostBatch]:
    own = distributed.share(program.mesh)
    return batches.evaluation(*own, program.config.train.eval_batches)


def classification_report(predicted: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Accuracy, macro-F1 and the confusion matrix (rows: what is right).

    Macro-F1 is the mean over the classes that occur in either of 2 tp / (2 tp + fp +
    fn), as scikit-learn's.
    """
    classes = int(max(predicted.max(), right.max())) + 1
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (right, predicted), 1)
    hits, both = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
    f1 = 2 * hits[both > 0] / both[both > 0]
    return {
        "accuracy": float(hits.sum() / matrix.sum()),
        "macro_f1": float(f1.mean()),
        "confusion": matrix.tolist(),
    }
