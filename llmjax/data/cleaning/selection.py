"""Texts in memory that stay: no copies, and splits that no near-duplicate crosses."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from llmjax.data.cleaning import duplicates

MIN_CHARACTERS = 80
SHINGLE_WORDS = 3
DROP_SIMILARITY = 0.8  # at and above: the same text twice, the longest stays
CLUSTER_SIMILARITY = 0.3  # at and above: relatives, which are never held out
SPLITS: Mapping[str, float] = {"train": 0.88, "validation": 0.06, "test": 0.06}

# 64 bands of 2 rows: two texts of similarity s meet with 1 - (1 - s^2)^64, that is
# 99.8 % at 0.3, all but 1e-5 at 0.4 and all but 1e-8 at 0.5.
_BANDS, _ROWS = 64, 2

_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Selection:
    """The texts that stay, by index, and counts of the dropped ones.

    Attributes:
      texts: index in the list -> text, in order.
      splits: index -> "train", "validation" or "test".
      counts: texts collected, dropped by each step and kept, and clusters.
    """

    texts: dict[int, str]
    splits: dict[int, str]
    counts: dict[str, int]


def select(
    texts: Iterable[str],
    min_characters: int = MIN_CHARACTERS,
) -> Selection:
    """Drops short texts, exact copies and near-copies, and splits by cluster.

    A pure function of `texts`: the same on every machine and Python.
    """
    raw = list(texts)
    counts = Counter({"collected": len(raw)})
    kept: dict[int, str] = {}
    seen: set[str] = set()
    for i, text in enumerate(raw):
        if len(text) < min_characters:
            counts["dropped_short"] += 1
        elif text in seen:
            counts["dropped_exact_duplicate"] += 1
        else:
            seen.add(text)
            kept[i] = text
    indices = list(kept)
    sets = [shingles(kept[i]) for i in indices]
    pairs, similarity = similar_pairs(sets)
    lengths = np.array([len(kept[i]) for i in indices])
    drop = duplicates.drop_near_copies(pairs[similarity >= DROP_SIMILARITY], lengths)
    counts["dropped_near_duplicate"] = len(drop)
    cluster = duplicates.connected(
        len(indices), pairs[similarity >= CLUSTER_SIMILARITY]
    )
    alive = [j for j in range(len(indices)) if j not in drop]
    splits = _split([kept[indices[j]] for j in alive], cluster[alive])
    counts["clusters"] = len(set(cluster[alive].tolist()))
    counts["kept"] = len(alive)
    return Selection(
        {indices[j]: kept[indices[j]] for j in alive},
        {indices[j]: split for j, split in zip(alive, splits, strict=True)},
        dict(counts),
    )


def shingles(text: str) -> np.ndarray:
    """Sorted distinct hashes of the runs of `SHINGLE_WORDS` words: uint64 [n]."""
    words = _WORD.findall(text.lower())
    ids = np.array([_word_hash(w) for w in words], np.uint64)
    n = max(len(ids) - SHINGLE_WORDS + 1, 1)
    out = np.zeros(n, np.uint64)
    for k in range(min(SHINGLE_WORDS, len(ids))):
        out = (out ^ ids[k : k + n]) * np.uint64(0x9E3779B97F4A7C15)
        out ^= out >> np.uint64(29)
    return np.unique(out)


_word_hashes: dict[str, int] = {}


def _word_hash(word: str) -> int:
    if word not in _word_hashes:  # Python's own hash differs between processes
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        _word_hashes[word] = int.from_bytes(digest, "little")
    return _word_hashes[word]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a & b| / |a | b| of two sorted distinct arrays."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def similar_pairs(sets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of similar sets and their exact Jaccard similarity.

    MinHash signatures cut into bands propose; the sets themselves decide.

    Returns:
      int64 [pairs, 2] and float64 [pairs], all at `CLUSTER_SIMILARITY` or above.
    """
    if len(sets) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    n, minhashes = len(sets), signatures(sets)
    codes = [p[:, 0] * n + p[:, 1] for p in duplicates.candidates(minhashes, _BANDS)]
    code = np.unique(np.concatenate([np.zeros(0, np.int64), *codes]))
    pairs = np.stack([code // n, code % n], 1)
    # Three standard deviations of the estimate below the threshold.
    pairs = pairs[
        duplicates.estimates(minhashes, pairs) >= CLUSTER_SIMILARITY - 3 * 0.041
    ]
    exact = np.array([jaccard(sets[i], sets[j]) for i, j in pairs.tolist()])
    keep = exact >= CLUSTER_SIMILARITY
    return pairs[keep], exact[keep]


def signatures(sets: Sequence[np.ndarray]) -> np.ndarray:
    """MinHash signatures of sets of hashes: uint32 [n, 128]."""
    offsets = np.cumsum([0, *map(len, sets)])
    flat = np.concatenate([np.zeros(0, np.uint64), *sets])
    return duplicates.minhash(flat, offsets, _BANDS * _ROWS)


def bucket_keys(signatures: np.ndarray) -> np.ndarray:
    """The buckets of `signatures`; similar ones share one: uint64 [n, 64]."""
    return duplicates.bucket_keys(signatures, _BANDS)


def split_of(text: str) -> str:
    """The split of a text without relatives, by its hash."""
    point = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    edges = np.cumsum([*SPLITS.values()])
    split = min(int(np.searchsorted(edges, point, "right")), len(SPLITS) - 1)
    return [*SPLITS][split]


def _split(texts: Sequence[str], clusters: np.ndarray) -> list[str]:
    """The split of each text, by its hash.

    Only a text without relatives can be held out: what is held out is unlike anything
    else, so that each text counts once, for a model as for a compressor.
    """
    size = Counter(clusters.tolist())
    return [
        "train" if size[cluster] > 1 else split_of(text)
        for text, cluster in zip(texts, clusters.tolist(), strict=True)
    ]
