"""Ranks with ties: of the classes of a text, and of the numbers of many."""

import numpy as np


def ranking_precision(right_NC: np.ndarray, scores_NC: np.ndarray) -> np.ndarray:
    """Of each text, the mean over its right classes of the share of right ones among
    those that score as high or higher, float64 [N]; 1 where none or all are right.

    Their mean is label ranking average precision (Schapire & Singer 2000), as
    scikit-learn's `label_ranking_average_precision_score`.
    """
    out_N = np.ones(len(right_NC))
    for k, (right_C, scores_C) in enumerate(zip(right_NC, scores_NC, strict=True)):
        own, C = np.sort(scores_C[right_C]), len(scores_C)
        if 0 < len(own) < C:
            rank = C - np.searchsorted(np.sort(scores_C), own)
            hits = len(own) - np.searchsorted(own, own)
            out_N[k] = np.mean(hits / rank)
    return out_N


def ranks(values_N: np.ndarray) -> np.ndarray:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Pearson's correlation coefficient; 0 where one of them is constant."""
    a_N, b_N = (np.asarray(x, np.float64) - np.mean(x, dtype=float) for x in (a_N, b_N))
    spread = float(np.sqrt((a_N @ a_N) * (b_N @ b_N)))
    return float(a_N @ b_N) / spread if spread > 0 else 0.0
