"""The source of each row of a run: a pure function of the row's number."""

from collections.abc import Sequence

import numpy as np

from llmjax.config import Explicit, Proportional, Temperature

PERIOD = 2**14


def shares(
    weighting: Explicit | Proportional | Temperature,
    weights: Sequence[float],
    rows: Sequence[int],
) -> list[float]:
    """The weight of each source in the mixture, up to a common factor.

    Args:
      weighting: the rule.
      weights: of each source, from the config.
      rows: of each source in one epoch.
    """
    match weighting:
        case Explicit():
            return [*weights]
        case Proportional():
            return [float(n) for n in rows]
        case Temperature(temperature=t):
            return [n ** (1 / t) for n in rows]


class Interleaving:
    """Rows 0, 1, .. divided among sources, evenly spread by their weights.

    The pattern repeats every `PERIOD` rows or fewer, in which each source has its
    share, rounded by the largest remainder, but at least one row; its rows lie in the
    middles of equal stretches. So of any first n rows a source has its share to within
    half of the number of sources, and finding the source of a row takes O(1).
    """

    def __init__(self, weights: Sequence[float]):
        """Takes the weight of each source; 0: never drawn.

        Raises:
          ValueError: a weight is negative, or none is above 0.
        """
        counts = _places(np.array(weights, np.float64))
        counts //= np.gcd.reduce(counts)
        middles = [(np.arange(n) + 0.5) / n for n in counts]
        owners = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(np.concatenate(middles), kind="stable")
        self._period = len(order)
        self._owners = owners[order]
        self._ranks = np.zeros((self._period + 1, len(counts)), np.int64)
        self._ranks[np.arange(1, self._period + 1), self._owners] = 1
        np.cumsum(self._ranks, axis=0, out=self._ranks)

    def sources(self, first: int, last: int) -> np.ndarray:
        """The sources of the rows [first, last): int64 [last - first]."""
        return self._owners[np.arange(first, last) % self._period]

    def before(self, row: int) -> np.ndarray:
        """The rows of each source before `row`: int64 [sources]."""
        periods, rest = divmod(row, self._period)
        return periods * self._ranks[-1] + self._ranks[rest]


def _places(weights: np.ndarray) -> np.ndarray:
    """Rows of each source in a period: int64 [sources], 0 only where the weight is."""
    if not np.all(weights >= 0) or not 0 < weights.sum() < np.inf:
        raise ValueError(
            f"the weights of the sources are {weights.tolist()}; accepted: numbers "
            "from 0 on, at least one of them above 0"
        )
    exact = weights / weights.sum() * PERIOD
    counts = exact.astype(np.int64)
    most = np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]
    counts[most] += 1
    missing = (weights > 0) & (counts == 0)
    counts[counts.argmax()] -= missing.sum()
    return counts + missing
