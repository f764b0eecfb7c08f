"""Confusion matrices: counted, summed up with intervals, as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDEST = 16  # classes of a matrix that is printed whole
LONGEST = 20  # characters of a class's name in a table
RESAMPLES = 1000  # of a bootstrap
_WORDS = {  # of a line
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "matthews": "Matthews",
    "quadratic_kappa": "quadratic kappa",
    "mae": "classes off",
    "calibration_error": "calibration error",
}


def confusion(predicted: np.ndarray, right: np.ndarray, classes: int) -> np.ndarray:
    """Examples of each right class (rows) and predicted class, int64 [C, C]."""
    counts_CC = np.zeros((classes, classes), np.int64)
    np.add.at(counts_CC, (right, predicted), 1)
    return counts_CC


def classification_report(
    counts_CC: np.ndarray, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy, macro-F1, Matthews' coefficient and the confusion matrix.

    As scikit-learn has them: macro-F1 is the mean of 2 tp / (2 tp + fp + fn) over the
    classes that are right or predicted somewhere; Matthews' coefficient, of several
    classes Gorodkin's, is 0 where one class is always right or always predicted.

    Args:
      counts_CC: as of `confusion`.
      names: of the classes; (): their numbers.
    """
    hits, rights = np.diag(counts_CC), counts_CC.sum(1)
    accuracy, macro_f1 = _shares(hits, rights, counts_CC.sum(0))
    return {
        "accuracy": float(accuracy),
        "macro_f1": float(macro_f1),
        "matthews": matthews(counts_CC),
        "labels": list(names) or [str(k) for k in range(len(counts_CC))],
        "confusion": counts_CC.tolist(),
    }


def _shares(
    hits_C: np.ndarray, right_C: np.ndarray, predicted_C: np.ndarray
) -> tuple[float, float]:
    """Accuracy and macro-F1."""
    both_C = right_C + predicted_C
    f1_C = 2 * hits_C[both_C > 0] / both_C[both_C > 0]
    return hits_C.sum() / right_C.sum(), f1_C.mean()


def matthews(counts_CC: np.ndarray) -> float:
    """Matthews' correlation coefficient, of several classes Gorodkin's (2004)."""
    counts = counts_CC.astype(np.float64)
    right_C, predicted_C, total = counts.sum(1), counts.sum(0), counts.sum()
    covariance = np.trace(counts) * total - right_C @ predicted_C
    spread = (total**2 - right_C @ right_C) * (total**2 - predicted_C @ predicted_C)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def intervals(counts_CC: np.ndarray) -> dict[str, list[float]]:
    """Where accuracy and macro-F1 lie in 95 % of bootstrap samples of the texts.

    Percentiles of `RESAMPLES` samples (Efron 1979). Drawing texts anew is drawing the
    cells of the matrix anew: only their counts are read. Always the same draws.
    """
    right, predicted = np.nonzero(counts_CC)
    cells, C = counts_CC[right, predicted].astype(np.int64), len(counts_CC)
    total, rng = int(cells.sum()), np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.multinomial(total, cells / total)
        hits = np.bincount(right, drawn * (right == predicted), C)
        sums = np.bincount(right, drawn, C), np.bincount(predicted, drawn, C)
        values.append(_shares(hits, *sums))
    ends = np.percentile(values, (2.5, 97.5), axis=0).T.tolist()
    return {"accuracy_interval": ends[0], "macro_f1_interval": ends[1]}


def ordinal_report(counts_CC: np.ndarray) -> dict[str, float]:
    """Quadratically weighted kappa (Cohen 1968), and how far off classes are.

    Kappa is 1 - observed / expected squared distance of right and predicted class; 0
    where one class alone is right and predicted.
    """
    C, total = len(counts_CC), counts_CC.sum()
    off_CC = np.abs(np.arange(C)[:, None] - np.arange(C))
    by_chance_CC = np.outer(counts_CC.sum(1), counts_CC.sum(0)) / total
    expected = float((by_chance_CC * off_CC**2).sum())
    observed = float((counts_CC * off_CC**2).sum())
    return {
        "quadratic_kappa": 1 - observed / expected if expected else 0.0,
        "mae": float((counts_CC * off_CC).sum() / total),
    }


def without(counts_CC: np.ndarray, none: int) -> dict[str, float]:
    """Precision, recall and F1 of all classes but one together: micro averages, as
    scikit-learn's with `labels`; 0 where nothing is predicted or right."""
    others = np.arange(len(counts_CC)) != none
    hits = float(np.diag(counts_CC)[others].sum())
    right, predicted = counts_CC[others].sum(), counts_CC[:, others].sum()
    return {
        "precision": hits / max(1, predicted),
        "recall": hits / max(1, right),
        "f1": 2 * hits / max(1, right + predicted),
    }


def headline(report: Mapping[str, Any]) -> str:
    """Metrics of a report in a line, with their intervals."""
    parts = []
    for name, words in _WORDS.items():
        if name in report:
            ends = report.get(f"{name}_interval")
            around = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
            parts.append(f"{words} {report[name]:.3f}{around}")
    return ", ".join(parts)


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
