"""Near-duplicates: signatures, the pairs that they propose, and the texts to drop."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import rensa

MAX_BUCKET = 64  # in a fuller bucket, texts are compared to neighbours only
_MIX = np.uint64(0x9E3779B97F4A7C15)

# For local files: 42 bands of 3 rows. Two texts of similarity s meet with
# 1 - (1 - s^3)^42, that is 99.6 % at 0.5, and 0.00004 at 0.01, where strangers are:
# so candidates stay few in a large corpus.
SIGNATURE_BANDS, SIGNATURE_ROWS = 42, 3
SHINGLE_WORDS = 3

_BYTE_IS_WORD = np.array(
    [b >= 0x80 or bool(re.match(rb"\w", bytes([b]))) for b in range(256)]
)
_IDEOGRAPH = 0xE3  # UTF-8 lead bytes from here on: East Asian scripts, no spaces
_STRIDE = np.uint64(0x2545F4914F6CDD1D)  # odd: it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_STRIDE), -1, 2**64))


def minhash(flat: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    """MinHash signatures (Broder 1997) of sets of hashes: uint32 [n, size].

    Args:
      flat: uint64, the sets end to end; repetitions change nothing.
      offsets: int64 [n + 1], where each begins in it.
    """
    digest = rensa.RMinHash.digest_matrix_from_flat_token_hashes
    return np.array(digest(flat, offsets, size, 0).to_rows(), np.uint32).reshape(
        len(offsets) - 1, size
    )


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash of the runs of three words of each text: uint32 [n, bands * rows].

    A word is a run of ASCII letters, digits, underscores and bytes beyond ASCII, or
    a single ideograph; case counts for nothing. All words of all texts are hashed at
    once: each is a difference of sums of bytes times powers of an odd number.
    """
    size = SIGNATURE_BANDS * SIGNATURE_ROWS
    if not texts:
        return np.zeros((0, size), np.uint32)
    encoded = [text.lower().encode() for text in texts]
    data = np.frombuffer(b"\0".join([*encoded, b""]), np.uint8)
    firsts = np.cumsum([0, *(len(e) + 1 for e in encoded)])
    words, starts = _words(data)
    count = np.diff(np.searchsorted(starts, firsts))
    # Two paddings behind each text, so that its last words begin runs as well.
    offsets = np.concatenate([[0], np.cumsum(count + SHINGLE_WORDS - 1)])
    padded = np.zeros(offsets[-1] + 1, np.uint64)
    text_of_word = np.repeat(np.arange(len(texts)), count)
    padded[np.arange(len(words)) + text_of_word * (SHINGLE_WORDS - 1)] = words
    runs = np.zeros(offsets[-1] - SHINGLE_WORDS + 2, np.uint64)
    for k in range(SHINGLE_WORDS):
        runs = (runs ^ padded[k : k + len(runs)]) * _MIX
        runs ^= runs >> np.uint64(29)
    begins = np.ones(offsets[-1], bool)  # the paddings begin none
    for k in range(1, SHINGLE_WORDS):
        begins[offsets[1:] - k] = False
    empty = offsets[:-1][count == 0]
    begins[empty], runs[empty] = True, 0  # but no set is empty
    kept = runs[begins[: len(runs)]]
    sizes = np.maximum(count, 1)
    return minhash(kept, np.concatenate([[0], np.cumsum(sizes)]), size)


def _words(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64 [n] and first bytes int64 [n] of the words of UTF-8 bytes."""
    is_word = _BYTE_IS_WORD[data]
    begins = is_word.copy()
    begins[1:] &= ~is_word[:-1] | (data[1:] >= _IDEOGRAPH)
    starts = np.flatnonzero(begins)
    gaps = np.flatnonzero(~is_word)  # the last byte is one
    ends = np.minimum(
        np.append(starts[1:], len(data)), gaps[np.searchsorted(gaps, starts)]
    )
    powers = np.cumprod(np.full(len(data), _STRIDE, np.uint64))
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers, out=sums[1:])
    inverses = np.cumprod(np.full(len(data), _INVERSE, np.uint64))
    words = (sums[ends] - sums[starts]) * inverses[starts] * _MIX
    return words ^ (words >> np.uint64(31)), starts


def bucket_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """The bucket of each band (Indyk & Motwani 1998): uint64 [n, bands]."""
    keys = [_key(rows) for rows in np.split(signatures, bands, axis=1)]
    return np.stack(keys, 1)


def _key(rows: np.ndarray) -> np.ndarray:
    mixed = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        mixed = (mixed ^ column.astype(np.uint64)) * _MIX
        mixed ^= mixed >> np.uint64(31)
    return mixed


def candidates(signatures: np.ndarray, bands: int) -> Iterator[np.ndarray]:
    """Pairs i < j that share a bucket of a band: int64 [pairs, 2], some again."""
    for band in np.split(signatures, bands, axis=1):
        yield from _neighbours(band)


def _neighbours(band: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs i < j that share a bucket of one band, int [n, rows]."""
    mixed = _key(band)
    order = np.argsort(mixed, kind="stable")
    _, sizes = np.unique(mixed[order], return_counts=True)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(band)) - np.repeat(starts, sizes)
    for gap in range(1, min(int(sizes.max(initial=0)), MAX_BUCKET)):
        later = np.flatnonzero(rank >= gap)
        i, j = order[later - gap], order[later]
        yield np.stack([np.minimum(i, j), np.maximum(i, j)], 1)


def estimates(signatures: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of pairs by their signatures: float64 [pairs]."""
    parts = np.array_split(pairs, len(pairs) // 20_000 + 1)
    return np.concatenate(
        [(signatures[p[:, 0]] == signatures[p[:, 1]]).mean(1) for p in parts]
    )


def similar(
    signatures: np.ndarray, least: float, progress: Callable[[], Any] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs of an estimated similarity from `least` on.

    `progress` is called after each band.

    Returns:
      int64 [pairs, 2] and float64 [pairs].
    """
    n = len(signatures)
    codes, similarities = [np.zeros(0, np.int64)], [np.zeros(0)]
    for band in np.split(np.arange(signatures.shape[1]), SIGNATURE_BANDS):
        for pairs in _neighbours(np.asarray(signatures[:, band[0] : band[-1] + 1])):
            similarity = estimates(signatures, pairs)
            keep = similarity >= least
            codes.append(pairs[keep, 0] * n + pairs[keep, 1])
            similarities.append(similarity[keep])
        progress()
    code, first = np.unique(np.concatenate(codes), return_index=True)
    pairs = np.stack([code // max(n, 1), code % max(n, 1)], 1)
    return pairs, np.concatenate(similarities)[first]


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """Union-find: the smallest member of each element's component, int64 [n]."""
    members, ends = np.unique(pairs, return_inverse=True)
    parent = list(range(len(members)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in ends.reshape(-1, 2).tolist():
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    component = np.arange(n, dtype=np.int64)
    roots = np.array([root(i) for i in range(len(members))], np.int64)
    component[members] = members[roots]
    return component


def drop_near_copies(pairs: np.ndarray, lengths: Any, ranks: Any = None) -> set[int]:
    """Greedy from the longest text down: drop what resembles one that stays.

    Args:
      pairs: int [n, 2], of near copies.
      lengths: of each text; of equals, the first stays.
      ranks: of each text; those of a smaller one stay before longer ones.
    """
    near: dict[int, list[int]] = {}
    for i, j in pairs.tolist():
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)

    def order(i: int) -> tuple[int, int, int]:
        return (0 if ranks is None else int(ranks[i]), -int(lengths[i]), i)

    drop: set[int] = set()
    for i in sorted(near, key=order):
        if i not in drop:
            drop.update(j for j in near[i] if order(j) > order(i))
    return drop
