"""Documents cut to texts of a row's length: across documents, or each by itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmjax.data.batches.rows import Source

_STRIDE = 1024  # documents between two remembered positions


class Chunks:
    """Documents end to end as they are stored, <eos> after each, cut every `length`.

    `chunks[i]` is {"tokens": int32 [length]}; the last may be shorter (RoBERTa's
    FULL-SENTENCES, Liu et al. 2019, 4.2; T5's `split_tokens`). The beginning of one
    document in 1024 is remembered, so that memory hardly grows with the corpus and
    finding a document takes O(log len(documents)).
    """

    def __init__(self, documents: Source, length: int, eos_id: int):
        """Cuts after every `length` tokens.

        Raises:
          ValueError: `length` is not positive.
        """
        self._documents, self._length = documents, _positive(length)
        self._eos = np.array([eos_id], np.int32)
        sizes = documents.lengths
        strides = range(0, len(sizes), _STRIDE)
        totals = [int((sizes[k : k + _STRIDE] + 1).sum()) for k in strides]
        self._starts = np.cumsum([0, *totals])

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each, int64 [len]."""
        out = np.full(len(self), self._length)
        out[-1:] = self._starts[-1] - self._length * max(len(self) - 1, 0)
        return out

    def __len__(self) -> int:
        return -(-int(self._starts[-1]) // self._length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        start = index % len(self) * self._length
        stop = min(start + self._length, int(self._starts[-1]))
        return {"tokens": np.concatenate([*self._between(start, stop)])}

    def _between(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The tokens [start, stop) of all documents end to end, one by one."""
        stride = int(np.searchsorted(self._starts, start, "right")) - 1
        document = stride * _STRIDE
        sizes = self._documents.lengths[document : document + _STRIDE]
        ends = self._starts[stride] + np.cumsum(sizes + 1)
        ahead = int(np.searchsorted(ends, start, "right"))
        at = int(ends[ahead] - sizes[ahead] - 1)  # where the document begins
        document += ahead
        while at < stop:
            tokens = self._documents[document]["tokens"].astype(np.int32, copy=False)
            end = at + len(tokens)
            yield tokens[max(start - at, 0) : stop - at]
            if start <= end < stop:
                yield self._eos
            document, at = document + 1, end + 1


class Clipped:
    """Each document's first or last `length` tokens, and the arrays along them."""

    def __init__(self, documents: Source, length: int, side: str = "right"):
        """Keeps `length` tokens at most.

        Args:
          documents, length: to cut.
          side: the end that is cut off, "left" or "right".

        Raises:
          ValueError: `length` is not positive.
        """
        self._documents, self._length = documents, _positive(length)
        self._kept = slice(-length, None) if side == "left" else slice(length)

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each, int64 [len]."""
        return np.minimum(self._documents.lengths, self._length)

    @property
    def cut(self) -> int:
        """How many are longer than what is kept."""
        return int(np.count_nonzero(self._documents.lengths > self._length))

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        document = self._documents[index]
        n = len(document["tokens"])
        return {
            k: v[self._kept] if np.ndim(v) and len(v) == n else v
            for k, v in document.items()
        }


def _positive(length: int) -> int:
    if length < 1:
        raise ValueError(
            f"texts of {length} tokens: a row has no room for text beside the task's "
            "special tokens; raise data.seq_len"
        )
    return length
