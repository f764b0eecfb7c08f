"""Metrics of test rows, with 95 % intervals by resampling the rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.finetune_suite.row import Estimate

RESAMPLES = 1000


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean over rows; see `ratio`."""
    return ratio(values, np.ones(len(values)))


def ratio(
    parts: Sequence[float] | np.ndarray,
    wholes: Sequence[float] | np.ndarray,
    shape: Callable[[float], float] = float,
) -> Estimate:
    """Sum of parts by sum of wholes, both of rows, and its percentile interval.

    An F1 is such a ratio (twice those in both, by those in either), an accuracy too,
    and a perplexity the exponential of one.

    Args:
      parts, wholes: of each row.
      shape: a rising function of the ratio, as `math.exp`.

    Raises:
      ValueError: fewer than two rows.
    """
    pair = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    if len(pair[0]) < 2:
        raise ValueError(
            f"an interval is of two rows or more, and here is {len(pair[0])}; test on "
            "more rows, or on smaller batches where a row is a batch"
        )

    def of_sums(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> Any:
        return part.sum(axis) / np.maximum(whole.sum(axis), 1e-12)

    ends = stats.bootstrap(
        pair,
        of_sums,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=64,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(*(shape(float(x)) for x in (of_sums(*pair), ends.low, ends.high)))


def bleu(texts: Sequence[str], references: Sequence[str]) -> Estimate:
    """BLEU of a corpus by sacrebleu, and where 95 % of resampled corpora have it."""
    import sacrebleu

    metric = sacrebleu.BLEU()
    value = metric.corpus_score([*texts], [[*references]]).score
    each = [
        metric.corpus_score([text], [[right]])
        for text, right in zip(texts, references, strict=True)
    ]
    counts_N = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each])
    rng, N = np.random.default_rng(0), len(texts)
    scores = []
    for _ in range(RESAMPLES):
        sums = counts_N[rng.integers(0, N, N)].sum(axis=0).astype(int).tolist()
        lengths = sums[8], sums[9]
        of = metric.compute_bleu(sums[:4], sums[4:8], *lengths, smooth_method="exp")
        scores.append(of.score)
    low, high = np.percentile(scores, (2.5, 97.5)).tolist()
    return Estimate(value, low, high)
