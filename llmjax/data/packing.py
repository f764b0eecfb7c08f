"""Which tokens lie in which row: decided from the documents' lengths alone."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from grain.experimental import index_shuffle


class Piece(NamedTuple):
    """Tokens [start, stop) of a document's features, at `column` of a row."""

    document: int
    start: int
    stop: int
    row: int
    column: int
    segment: int  # 1, 2, .. within the row


def permutation(size: int, seed: int, epoch: int) -> Callable[[int], int]:
    """The shuffle of range(size) of (seed, epoch), index by index, in no memory."""
    key = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return functools.partial(index_shuffle, max_index=size - 1, seed=key, rounds=4)


@runtime_checkable
class Packing(Protocol):
    """Rows of an epoch, and what lies in them."""

    rows: int

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """Rows [first, last) of an epoch; None: of the documents' own order.

        `Piece.row` counts from `first`.
        """
        ...


class Concat:
    """Documents laid end to end in an epoch's order, cut every `seq_len` tokens."""

    def __init__(self, lengths: np.ndarray, seq_len: int, seed: int):
        """`lengths` int64 [documents]; at least one of them is not 0."""
        self._lengths, self._seq_len, self._seed = lengths, seq_len, seed
        self.rows = -(-int(lengths.sum()) // seq_len)
        self._laid = functools.lru_cache(maxsize=3)(self._lay)

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """As `Packing.pieces`."""
        order, ends = self._laid(epoch)
        T = self._seq_len
        k = int(np.searchsorted(ends, first * T, "right"))
        pieces: list[Piece] = []
        place = first * T  # in the epoch's line of tokens
        segment = 0
        while k < len(ends) and place < last * T:
            start = int(ends[k] - self._lengths[order[k]])
            row, column = divmod(place, T)
            segment = 1 if column == 0 else segment + 1
            stop = min(int(ends[k]), (row + 1) * T)
            span = place - start, stop - start
            pieces.append(Piece(int(order[k]), *span, row - first, column, segment))
            place = stop
            while k < len(ends) and ends[k] <= place:
                k += 1
        return pieces

    def _lay(self, epoch: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The documents in order and where each of them ends: int64 [documents]."""
        n = len(self._lengths)
        if epoch is None:
            order = np.arange(n)
        else:
            shuffle = permutation(n, self._seed, epoch)
            order = np.fromiter(map(shuffle, range(n)), np.int64, n)
        return order, np.cumsum(self._lengths[order])


class Pad:
    """One document per row, cut at `seq_len`."""

    def __init__(self, lengths: np.ndarray, seq_len: int, seed: int):
        """`lengths` int64 [documents], not empty."""
        self._lengths, self._seq_len, self._seed = lengths, seq_len, seed
        self.rows = len(lengths)

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """As `Packing.pieces`."""
        pieces = []
        shown = range(first, min(last, self.rows))
        documents = list(shown)
        if epoch is not None:
            documents = [*map(permutation(self.rows, self._seed, epoch), shown)]
        for row, document in enumerate(documents):
            stop = min(int(self._lengths[document]), self._seq_len)
            pieces.append(Piece(document, 0, stop, row, 0, 1))
        return pieces
