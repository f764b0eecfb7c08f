"""The places of tokens in rows, from the documents' lengths alone."""

import bisect
import functools
import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise, repeat
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from grain.experimental import index_shuffle

from llmjax.data.batches.index import Index, Table

FORMAT = 1  # of the tables; raise it with every change of what they hold
_BLOCK = 2**16  # documents that are looked at together
_COLUMNS = ("document", "start", "stop", "column")


class Piece(NamedTuple):
    """Tokens [start, stop) of a document's features, at `column` of a row."""

    document: int
    start: int
    stop: int
    row: int
    column: int
    segment: int  # 1, 2, .. within the row


@runtime_checkable
class Packing(Protocol):
    """The rows of every epoch, and the pieces of documents in them.

    The epoch None, for evaluation, has the documents in their own order.
    """

    def rows(self, epoch: int | None) -> int:
        """Rows of an epoch; together they show every document once."""
        ...

    def before(self, epoch: int) -> int:
        """Rows of all epochs before this one."""
        ...

    def locate(self, row: int) -> tuple[int, int]:
        """The epoch of a row counted through all epochs, and the row in that epoch."""
        ...

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """The pieces of rows [first, last) of an epoch, row by row.

        `Piece.row` counts from `first`.
        """
        ...


class Lengths:
    """Lengths of the documents' features, int64, computed a block at a time.

    Attributes:
      total: their sum.
      digest: sha256 of all of them.
    """

    def __init__(self, tokens: np.ndarray, length: Callable[[int], int] | None = None):
        """Maps `tokens`, int [documents], to the length of features; None: the same."""
        self._tokens, self._length = tokens, length

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, documents: slice | np.ndarray) -> np.ndarray:
        tokens = np.asarray(self._tokens[documents], np.int64)
        if self._length is None:
            return tokens
        distinct, inverse = np.unique(tokens, return_inverse=True)
        return np.array([*map(self._length, distinct.tolist())], np.int64)[inverse]

    def blocks(self) -> Iterator[np.ndarray]:
        """All lengths, a block at a time."""
        for start in range(0, len(self), _BLOCK):
            yield self[start : start + _BLOCK]

    def longest(self) -> int | None:
        """The longest document of the first block with one; None: all are empty."""
        for k, block in enumerate(self.blocks()):
            if block.any():
                return k * _BLOCK + int(block.argmax())
        return None

    def most_in_row(self, seq_len: int) -> int:
        """The most documents that fit into `seq_len` tokens, whatever their order."""
        shortest = np.zeros(0, np.int64)
        for block in self.blocks():
            shortest = np.sort(np.concatenate([shortest, block[block > 0]]))[:seq_len]
        return int(np.searchsorted(np.cumsum(shortest), seq_len, "right"))

    @functools.cached_property
    def total(self) -> int:
        return sum(int(block.sum()) for block in self.blocks())

    @functools.cached_property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(np.ascontiguousarray(block, "<i8").data)
        return digest.hexdigest()


class Order(NamedTuple):
    """The shuffled documents of each epoch, computed by index, without a table."""

    size: int
    seed: int
    part: int = 0  # of a mixture

    def __call__(self, epoch: int | None, start: int, stop: int) -> np.ndarray:
        """Documents [start, stop) of an epoch's order, int64; None: unshuffled."""
        if epoch is None:
            return np.arange(start, stop)
        key = np.random.SeedSequence([self.seed, epoch, self.part])
        seed = int(key.generate_state(1)[0])
        shuffled = map(
            index_shuffle,
            range(start, stop),
            repeat(self.size - 1),
            repeat(seed),
            repeat(4),
        )
        return np.fromiter(shuffled, np.int64, stop - start)


class _EqualEpochs:
    """Epochs with the same number of rows."""

    _rows: int

    def rows(self, epoch: int | None) -> int:
        """See `Packing.rows`."""
        return self._rows

    def before(self, epoch: int) -> int:
        """See `Packing.before`."""
        return epoch * self._rows

    def locate(self, row: int) -> tuple[int, int]:
        """See `Packing.locate`."""
        return divmod(row, self._rows)


class Pad(_EqualEpochs):
    """One document per row."""

    def __init__(self, order: Order, seq_len: int):
        """Cuts documents at `seq_len`."""
        self._order, self._seq_len, self._rows = order, seq_len, order.size

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """See `Packing.pieces`; `stop` is `seq_len`, however long the document is."""
        documents = self._order(epoch, first, last).tolist()
        return [Piece(d, 0, self._seq_len, r, 0, 1) for r, d in enumerate(documents)]


class Concat(_EqualEpochs):
    """Documents laid end to end in an epoch's order, cut every `seq_len` tokens.

    The table of an epoch: `order`, the documents, and `ends`, the position behind each
    document's last token.
    """

    def __init__(self, lengths: Lengths, order: Order, seq_len: int, index: Index):
        """At least one of `lengths` is not 0."""
        self._lengths, self._order, self._index = lengths, order, index
        self._seq_len = seq_len
        self._rows = -(-lengths.total // seq_len)

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """See `Packing.pieces`."""
        table = self._table(epoch)
        T = self._seq_len
        at, stop = first * T, last * T
        k = int(np.searchsorted(table["ends"], at, "right"))
        n = int(np.searchsorted(table["ends"][k:], stop)) + 1
        ends = table["ends"][k : k + n].tolist()
        documents = table["order"][k : k + n].tolist()
        start = int(table["ends"][k - 1]) if k else 0
        pieces: list[Piece] = []
        segment = 0
        for document, end in zip(documents, ends, strict=True):
            while at < min(end, stop):
                row, column = divmod(at, T)
                segment = 1 if column == 0 else segment + 1
                to = min(end, (row + 1) * T)
                span = at - start, to - start
                pieces.append(Piece(document, *span, row - first, column, segment))
                at = to
            start = end
        return pieces

    def _table(self, epoch: int | None) -> Table:
        key = _key("concat", self._lengths, self._order, epoch)
        return self._index.table(key, functools.partial(self._blocks, epoch))

    def _blocks(self, epoch: int | None) -> Iterator[Table]:
        end = 0
        for start in range(0, len(self._lengths), _BLOCK):
            stop = min(start + _BLOCK, len(self._lengths))
            order = self._order(epoch, start, stop)
            ends = end + np.cumsum(self._lengths[order])
            end = ends[-1]
            yield {"order": order, "ends": ends}


class FirstFit:
    """Whole documents fitted into rows, within windows of an epoch's order.

    A document that is longer than a row gives whole rows and a rest; in each window the
    rests are fitted longest first, each into the fullest row that has room for it (best
    fit decreasing: Johnson 1973; for training data Ding et al. 2024, 2404.10830). Then
    the rows of a window are shuffled.

    The table of an epoch: per piece `document`, `start`, `stop` and `column`, and per
    row `ends`, how many pieces there are up to its last.
    """

    def __init__(
        self,
        lengths: Lengths,
        order: Order,
        seq_len: int,
        window: int,
        index: Index,
        max_segments: int | None = None,
    ):
        """
        Args:
          lengths: at least one is not 0.
          order: of the documents.
          seq_len: tokens of a row.
          window: documents that are fitted together.
          index: keeps the tables.
          max_segments: pieces of a row at most; None: as many as fit.
        """
        self._lengths, self._order, self._index = lengths, order, index
        self._seq_len, self._max_segments = seq_len, max_segments
        windows = -(-len(lengths) // window)  # of equal sizes: no small one at the end
        self._bounds = [k * len(lengths) // windows for k in range(windows + 1)]
        self._before = [0]
        self._lock = threading.Lock()

    def rows(self, epoch: int | None) -> int:
        """See `Packing.rows`; another number in each epoch."""
        return len(self._table(epoch)["ends"])

    def before(self, epoch: int) -> int:
        """See `Packing.before`."""
        while len(self._before) <= epoch:
            self._grow()
        return self._before[epoch]

    def locate(self, row: int) -> tuple[int, int]:
        """See `Packing.locate`."""
        while self._before[-1] <= row:
            self._grow()
        epoch = bisect.bisect_right(self._before, row) - 1
        return epoch, row - self._before[epoch]

    def pieces(self, first: int, last: int, epoch: int | None) -> list[Piece]:
        """See `Packing.pieces`."""
        table = self._table(epoch)
        ends = table["ends"][first:last].tolist()
        at = int(table["ends"][first - 1]) if first else 0
        here = slice(at, ends[-1] if ends else at)
        columns = (table[k][here].tolist() for k in _COLUMNS)
        spans = zip(*columns, strict=True)
        pieces: list[Piece] = []
        for row, end in enumerate(ends):
            for segment in range(1, end - at + 1):
                document, start, stop, column = next(spans)
                pieces.append(Piece(document, start, stop, row, column, segment))
            at = end
        return pieces

    def _grow(self) -> None:
        with self._lock:
            rows = self.rows(len(self._before) - 1)
            self._before.append(self._before[-1] + rows)

    def _table(self, epoch: int | None) -> Table:
        key = _key("first_fit", self._lengths, self._order, epoch)
        key |= {"seq_len": self._seq_len, "windows": len(self._bounds) - 1}
        if self._max_segments is not None:
            key |= {"max_segments": self._max_segments}
        return self._index.table(key, functools.partial(self._blocks, epoch))

    def _blocks(self, epoch: int | None) -> Iterator[Table]:
        pieces = 0
        for window, (start, stop) in enumerate(pairwise(self._bounds)):
            documents = self._order(epoch, start, stop)
            seed = [self._order.seed, 0 if epoch is None else epoch + 1]
            key = [*seed, self._order.part, 1 + window]
            lengths = self._lengths[documents]
            block = _fit(documents, lengths, self._seq_len, key, self._max_segments)
            block["ends"] += pieces
            pieces = block["ends"][-1] if len(block["ends"]) else pieces
            yield block


def _key(
    packing: str, lengths: Lengths, order: Order, epoch: int | None
) -> dict[str, Any]:
    """The part of a table's key that both packings have."""
    return {
        "format": FORMAT,
        "packing": packing,
        "lengths": lengths.digest,
        "seed": order.seed,
        "part": order.part,
        "epoch": epoch,
    }


def _fit(
    documents: np.ndarray,
    lengths: np.ndarray,
    seq_len: int,
    key: list[int],
    max_segments: int | None,
) -> Table:
    """One window's rows, shuffled by `key`: the columns of `FirstFit`'s table."""
    whole, rests = np.divmod(lengths, seq_len)
    rest = np.flatnonzero(rests)
    count = int(whole.sum())
    # The rows of long documents, then those that the rests are fitted into.
    nth = np.arange(count) - np.repeat(np.cumsum(whole) - whole, whole)
    row, column = best_fit(rests[rest], seq_len, max_segments)
    start = np.concatenate([nth, whole[rest]]) * seq_len
    table = {
        "document": np.concatenate([np.repeat(documents, whole), documents[rest]]),
        "start": start,
        "stop": start + np.concatenate([np.full(count, seq_len), rests[rest]]),
        "column": np.concatenate([np.zeros(count, np.int64), column]),
    }
    row = np.concatenate([np.arange(count), count + row])
    rows = int(row.max(initial=-1)) + 1
    row = np.random.default_rng(key).permutation(rows)[row]
    order = np.lexsort([table["column"], row])
    table = {name: values[order] for name, values in table.items()}
    return table | {"ends": np.cumsum(np.bincount(row, minlength=rows))}


def best_fit(
    sizes: np.ndarray, capacity: int, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fits sizes into few rows, the largest first, each where least room is left over.

    Args:
      sizes: int64 [n], in [1, capacity].
      capacity: of a row.
      most: sizes in a row; None: any number.

    Returns:
      The row of each, and its column there: int64 [n].
    """
    rows = np.empty(len(sizes), np.int64)
    columns = np.empty(len(sizes), np.int64)
    open_rows: defaultdict[int, list[int]] = defaultdict(list)  # by the room in them
    rooms = 0  # bit r is set where open_rows[r] has one
    counts: list[int] = []  # sizes in each row
    most = capacity if most is None else most
    order = np.argsort(-sizes, kind="stable")
    for i, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(counts)
            counts.append(0)
        counts[row] += 1
        rows[i], columns[i] = row, capacity - room
        room -= size
        if room and counts[row] < most:
            open_rows[room].append(row)
            rooms |= 1 << room
    return rows, columns
