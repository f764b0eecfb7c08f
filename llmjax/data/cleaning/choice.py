"""Choice of the documents of local files that stay, and their splits, on arrays."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmjax.config import PrepareConfig
from llmjax.data.cleaning import duplicates

DROP_SIMILARITY = 0.8  # at and above: the same text twice, the longest stays
FEW = 8  # different texts, of which a split may stay empty
CLUSTER_SIMILARITY = 0.5  # at and above: relatives, which are never held out


def hashes_of(texts: Sequence[str]) -> np.ndarray:
    """Hashes of texts: uint64 [n, 2]."""
    digests = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def first_copies(hashes: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The first of equal hashes, the smallest rank before others: sorted indices."""
    order = np.lexsort((ranks, hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return np.sort(order[first])


def unlike(
    signatures: np.ndarray,
    characters: np.ndarray,
    ranks: np.ndarray,
    progress: Callable[[], Any] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds near copies, and documents that have relatives.

    Args:
      signatures: uint32 [n, size]; may be mapped.
      characters: int [n]; of near copies with one rank the longest stays.
      ranks: int [n]; of near copies those of the smallest rank stay.
      progress: called after each band.

    Returns:
      bool [n] and bool [n]: whether it stays, and whether others that stay are like
      it; a copy that goes ties its own relatives together.
    """
    n = len(signatures)
    pairs, similarity = duplicates.similar(signatures, CLUSTER_SIMILARITY, progress)
    near = pairs[similarity >= DROP_SIMILARITY]
    stays = np.ones(n, bool)
    stays[sorted(duplicates.drop_near_copies(near, characters, ranks))] = False
    cluster = duplicates.connected(n, pairs)
    return stays, np.bincount(cluster[stays], minlength=n)[cluster] > 1


def split_names(prepare: PrepareConfig) -> list[str]:
    """The names of the splits, in the order of `divide`'s numbers."""
    shares = {"validation": prepare.validation, "test": prepare.test}
    return ["train", *(split for split, share in shares.items() if share > 0)]


def only(prepare: PrepareConfig, splits: Sequence[str]) -> PrepareConfig:
    """The same shares of these splits, and none of the others."""
    return dataclasses.replace(
        prepare,
        validation=prepare.validation if "validation" in splits else 0.0,
        test=prepare.test if "test" in splits else 0.0,
    )


def divide(
    hashes: np.ndarray, related: np.ndarray, prepare: PrepareConfig
) -> np.ndarray:
    """The number of the split of each document, by its hash: int8 [n].

    Only one without relatives can be held out: what is held out is unlike anything
    else, so that each text counts once. Of more than `FEW` texts each split has one.
    """
    shares = [share for share in (prepare.validation, prepare.test) if share > 0]
    edges = 1 - np.cumsum(shares[::-1])[::-1]
    point = (hashes[:, 0] >> np.uint64(11)).astype(np.float64) / 2**53
    split = np.searchsorted(edges, point, "right").astype(np.int8)
    split[related] = 0
    for k in range(1, len(shares) + 1):  # of a few texts chance may hold out none
        free = (split == 0) & ~related
        if not (split == k).any() and len(np.unique(hashes[free, 0])) > FEW:
            split[hashes[:, 0] == hashes[free, 0].max()] = k
    return split
