"""How far the probability of the likeliest class can be trusted."""

import dataclasses

import numpy as np

BINS = 15  # of Guo et al.


@dataclasses.dataclass(frozen=True, eq=False)
class Bins:
    """Texts by the probability of their likeliest class, in equal steps.

    Attributes:
      texts, confidence, right: how many, the sum of those probabilities, and of how
        many that class is right; [BINS] each.
    """

    texts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(BINS))
    confidence: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(BINS))
    right: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(BINS))

    def with_texts(self, probabilities_NC: np.ndarray, right_N: np.ndarray) -> "Bins":
        """With more texts: their probabilities, and the numbers of the right class."""
        top_N = probabilities_NC.max(axis=-1).astype(np.float64)
        # a bin has its upper end, as in the paper
        place_N = np.clip(np.ceil(top_N * BINS).astype(int) - 1, 0, BINS - 1)
        hit_N = probabilities_NC.argmax(axis=-1) == right_N

        def add(before: np.ndarray, values: np.ndarray | None) -> np.ndarray:
            return before + np.bincount(place_N, values, BINS)

        return Bins(
            add(self.texts, None),
            add(self.confidence, top_N),
            add(self.right, hit_N.astype(float)),
        )

    def expected_error(self) -> float:
        """Mean distance of confidence and accuracy, over texts (Guo et al. 2017,
        arXiv:1706.04599, 2)."""
        distance = np.abs(self.confidence - self.right).sum()
        return float(distance / max(self.texts.sum(), 1))
