"""Confusion matrices: counted, summed up, and as a table for people."""

from collections.abc import Sequence
from typing import Any

import numpy as np

WIDEST = 16  # classes of a matrix that is printed whole
LONGEST = 20  # characters of a class's name in a table


def confusion(predicted: np.ndarray, right: np.ndarray, classes: int) -> np.ndarray:
    """Examples of each right class (rows) and predicted class, int64 [C, C]."""
    counts_CC = np.zeros((classes, classes), np.int64)
    np.add.at(counts_CC, (right, predicted), 1)
    return counts_CC


def classification_report(
    counts_CC: np.ndarray, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy, macro-F1 and the confusion matrix, from its counts.

    Macro-F1 is scikit-learn's: the mean of 2 tp / (2 tp + fp + fn) over the classes
    that are right or predicted somewhere.

    Args:
      counts_CC: as of `confusion`.
      names: of the classes; (): their numbers.
    """
    hits, both = np.diag(counts_CC), counts_CC.sum(0) + counts_CC.sum(1)
    f1 = 2 * hits[both > 0] / both[both > 0]
    return {
        "accuracy": float(hits.sum() / counts_CC.sum()),
        "macro_f1": float(f1.mean()),
        "labels": list(names) or [str(k) for k in range(len(counts_CC))],
        "confusion": counts_CC.tolist(),
    }


def table(counts_CC: np.ndarray, names: Sequence[str]) -> str:
    """The matrix as text: a row for each right class, a column for each predicted one.

    Behind a row its recall, below a column its precision. Of more than `WIDEST` classes
    recall and precision alone, and the ten commonest mistakes.
    """
    names = [n if len(n) <= LONGEST else f"{n[: LONGEST - 1]}…" for n in names]
    hits = np.diag(counts_CC).tolist()
    rights, predicted = counts_CC.sum(1).tolist(), counts_CC.sum(0).tolist()
    recall = [_share(hit, n) for hit, n in zip(hits, rights, strict=True)]
    precision = [_share(hit, n) for hit, n in zip(hits, predicted, strict=True)]
    if len(names) > WIDEST:
        rows = [["right \\ predicted", "texts", "recall", "precision"]]
        totals = map(str, rights)
        rows += map(list, zip(names, totals, recall, precision, strict=True))
        return "\n".join([*aligned(rows), *_mistakes(counts_CC, names)])
    rows = [["right \\ predicted", *names, "recall"]]
    for name, counts_C, share in zip(names, counts_CC, recall, strict=True):
        rows.append([name, *map(str, counts_C), share])
    rows.append(["precision", *precision, ""])
    return "\n".join(aligned(rows))


def _share(hits: int, total: int) -> str:
    return f"{hits / total:.3f}" if total else "-"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines: the first column begins where it begins, others end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _mistakes(counts_CC: np.ndarray, names: Sequence[str]) -> list[str]:
    """The commonest mistakes, a line each."""
    off_CC = counts_CC - np.diag(np.diag(counts_CC))
    order = np.argsort(-off_CC, axis=None, kind="stable")[:10]
    pairs = zip(*np.unravel_index(order, off_CC.shape), strict=True)
    return [
        f"{off_CC[right, wrong]} of {names[right]} taken for {names[wrong]}"
        for right, wrong in pairs
        if off_CC[right, wrong]
    ]
