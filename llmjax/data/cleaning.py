"""Cleaning, near-duplicates, and a split that no near-duplicate crosses."""

import dataclasses
import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import ftfy
import numpy as np
import rensa

MIN_CHARACTERS = 80
SHINGLE_WORDS = 3
DROP_SIMILARITY = 0.8  # at and above: the same text twice, the longest stays
CLUSTER_SIMILARITY = 0.3  # at and above: relatives, which are never held out
SPLITS: Mapping[str, float] = {"train": 0.88, "validation": 0.06, "test": 0.06}

# 64 bands of 2 rows: two texts of similarity s meet with 1 - (1 - s^2)^64, that is
# 99.8 % at 0.3, all but 1e-5 at 0.4 and all but 1e-8 at 0.5.
_BANDS, _ROWS = 64, 2
_MAX_BUCKET = 64  # in a fuller bucket, texts are compared to neighbours only

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ufeff]")
_SPACES = re.compile(r"[ \t]+(?=\n|$)")
_BLANK_LINES = re.compile(r"\n{3,}")
_WORD = re.compile(r"\w+")
_FTFY = ftfy.TextFixerConfig(unescape_html=False)


def clean(text: str) -> str:
    """`text` with its encoding mended, dedented, and its white space normalised."""
    if not text.isascii() or "\x1b" in text:
        text = ftfy.fix_text(text, config=_FTFY)
    text = inspect.cleandoc(text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _SPACES.sub("", _CONTROLS.sub("", text.replace("\xa0", " ")))
    return _BLANK_LINES.sub("\n\n", text).strip()


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What is left of a list of texts, by index, and what went.

    Attributes:
      texts: index in the list given -> clean text, in order.
      splits: index -> "train", "validation" or "test".
      counts: how many came, how many each step dropped, how many clusters are left.
    """

    texts: dict[int, str]
    splits: dict[int, str]
    counts: dict[str, int]


def run(
    texts: Iterable[str], progress: Callable[[str], None] = lambda stage: None
) -> Cleaned:
    """Cleans, drops short texts, exact copies and near-copies, and splits by cluster.

    A pure function of `texts`: the same on every machine and Python.
    """
    raw = list(texts)
    counts = Counter({"collected": len(raw)})
    progress("cleaning")
    kept: dict[int, str] = {}
    seen: set[str] = set()
    for i, text in enumerate(map(clean, raw)):
        if len(text) < MIN_CHARACTERS:
            counts["dropped_short"] += 1
        elif text in seen:
            counts["dropped_exact_duplicate"] += 1
        else:
            seen.add(text)
            kept[i] = text
    progress("comparing")
    indices = list(kept)
    sets = [shingles(kept[i]) for i in indices]
    pairs, similarity = similar_pairs(sets)
    lengths = np.array([len(kept[i]) for i in indices])
    drop = _shorter_of_near_copies(pairs[similarity >= DROP_SIMILARITY], lengths)
    counts["dropped_near_duplicate"] = len(drop)
    cluster = connected(len(indices), pairs[similarity >= CLUSTER_SIMILARITY])
    alive = [j for j in range(len(indices)) if j not in drop]
    splits = _split([kept[indices[j]] for j in alive], cluster[alive])
    counts["clusters"] = len(set(cluster[alive].tolist()))
    counts["kept"] = len(alive)
    return Cleaned(
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

    MinHash signatures (Broder 1997) cut into bands (Indyk & Motwani 1998) propose;
    the sets themselves decide.

    Returns:
      int64 [pairs, 2] and float64 [pairs], all at `CLUSTER_SIMILARITY` or above.
    """
    if len(sets) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    matrix = rensa.RMinHash.digest_matrix_from_token_hash_sets(
        [s.tolist() for s in sets], _BANDS * _ROWS, 0
    )
    signatures = np.array(matrix.to_rows(), np.uint32)
    pairs = _candidates(signatures)
    estimates = np.concatenate(
        [
            (signatures[p[:, 0]] == signatures[p[:, 1]]).mean(1)
            for p in np.array_split(pairs, len(pairs) // 20_000 + 1)
        ]
    )
    # Three standard deviations of the estimate below the threshold.
    pairs = pairs[estimates >= CLUSTER_SIMILARITY - 3 * 0.041]
    exact = np.array([jaccard(sets[i], sets[j]) for i, j in pairs.tolist()])
    keep = exact >= CLUSTER_SIMILARITY
    return pairs[keep], exact[keep]


def _candidates(signatures: np.ndarray) -> np.ndarray:
    """Distinct pairs i < j whose signatures agree on a whole band: int64 [pairs, 2]."""
    n = len(signatures)
    found = []
    for band in np.split(signatures.astype(np.uint64), _BANDS, axis=1):
        mixed = np.zeros(n, np.uint64)
        for column in band.T:
            mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(31)
        order = np.argsort(mixed, kind="stable")
        _, sizes = np.unique(mixed[order], return_counts=True)
        starts = np.cumsum(sizes) - sizes
        rank = np.arange(n) - np.repeat(starts, sizes)
        for gap in range(1, min(int(sizes.max()), _MAX_BUCKET)):
            later = np.flatnonzero(rank >= gap)
            i, j = order[later - gap], order[later]
            found.append(np.minimum(i, j) * n + np.maximum(i, j))
    codes = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return np.stack([codes // n, codes % n], 1)


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """Union-find: the smallest member of each element's component, int64 [n]."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs.tolist():
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    return np.array([root(i) for i in range(n)], np.int64)


def _shorter_of_near_copies(pairs: np.ndarray, lengths: np.ndarray) -> set[int]:
    """Greedy from the longest text down: drop what resembles one that stays."""
    near: dict[int, list[int]] = {}
    for i, j in pairs.tolist():
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    drop: set[int] = set()
    for i in sorted(near, key=lambda i: (-lengths[i], i)):
        if i not in drop:
            drop.update(j for j in near[i] if (lengths[j], -j) < (lengths[i], -i))
    return drop


def _split(texts: Sequence[str], clusters: np.ndarray) -> list[str]:
    """The split of each text, by its hash.

    Only a text without relatives can be held out: what is held out is unlike anything
    else, so that each text counts once, for a model as for a compressor.
    """
    size = Counter(clusters.tolist())
    names = [*SPLITS]
    edges = np.cumsum([SPLITS[name] for name in names])

    def split(text: str, cluster: int) -> str:
        if size[cluster] > 1:
            return "train"
        key = hashlib.sha256(text.encode()).digest()
        point = int.from_bytes(key[:8], "big") / 2**64
        return names[min(int(np.searchsorted(edges, point, "right")), len(names) - 1)]

    return [split(t, c) for t, c in zip(texts, clusters.tolist(), strict=True)]
