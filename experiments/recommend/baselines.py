"""What recommends without a Transformer: popularity, similar items, EASE.

Each takes `learned` [users, items], 1 where a user had an item that is learned from,
and `asked` [users, items], the same of the histories that are answered, and gives a
score for each of these and each item.
"""

import numpy as np


def popularity(learned: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How many users had the item."""
    return np.broadcast_to(learned.sum(0), asked.shape)


def similar_items(
    learned: np.ndarray, asked: np.ndarray, neighbours: int = 100
) -> np.ndarray:
    """The sum of cosines to the items of the history (Sarwar et al. 2001).

    Args:
      neighbours: items whose cosine to an item counts, the nearest.
    """
    together = learned.T @ learned
    length = np.sqrt(np.maximum(np.diag(together), 1))
    cosine = together / np.outer(length, length)
    np.fill_diagonal(cosine, 0)
    if neighbours < len(cosine):
        least = np.partition(cosine, -neighbours, axis=0)[-neighbours]
        cosine = np.where(cosine >= least, cosine, 0)
    return asked @ cosine


def ease(learned: np.ndarray, asked: np.ndarray, penalty: float = 300.0) -> np.ndarray:
    """The linear model of items by others, in closed form (Steck 2019, 1905.03375).

    Args:
      penalty: of the squared weights.
    """
    inverse = np.linalg.inv(learned.T @ learned + penalty * np.eye(learned.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return asked @ weights


BASELINES = {"popularity": popularity, "item_knn": similar_items, "ease": ease}
MOST = 8192  # items of which a square matrix is still computed
