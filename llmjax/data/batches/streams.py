"""The arrays of a batch, and where the features of an example lie in them.

Features whose names begin with "encoder_" or "other_" are streams of their own beside
the rest: the text of an encoder, a second text. Each stream has its own segments and
positions, and its own room in a row.
"""

from typing import NamedTuple

import numpy as np

from llmjax.config import DataConfig
from llmjax.data.batches.packing import Piece

Batch = dict[str, np.ndarray]
Kinds = dict[str, tuple[int, np.dtype]]  # dimensions and dtype of each feature
PREFIXES = ("encoder_", "other_")
PACKED = ("concat", "first_fit")  # several documents in a row
_OWN = ("segment_ids", "positions")


class Stream(NamedTuple):
    """Features that lie side by side, [room] each in a row."""

    prefix: str
    names: tuple[str, ...]
    room: int


class Streams:
    """What the features of a run's examples are.

    Attributes:
      kinds: of the features.
    """

    def __init__(self, example: Batch, data: DataConfig):
        """As the features of one example are.

        Raises:
          ValueError: they can't be packed as `data.packing` says.
        """
        self.kinds = _kinds(example)
        if deep := [k for k, v in example.items() if v.ndim > 1]:
            raise ValueError(
                f"the feature {deep[0]!r} has the shape {example[deep[0]].shape}; "
                "accepted: [n] or a scalar"
            )
        self._packed = data.packing in PACKED
        room = {"encoder_": data.encoder_seq_len or data.seq_len}
        along = [k for k, v in example.items() if v.ndim]
        self._scalars = [k for k, v in example.items() if not v.ndim]
        self._streams = [
            Stream(prefix, names, room.get(prefix, data.seq_len))
            for prefix in ("", *PREFIXES)
            if (names := tuple(k for k in along if _prefix(k) == prefix))
        ]
        own = {"valid"} | {s.prefix + k for s in self._streams for k in _OWN}
        if taken := sorted(own & set(example)):
            raise ValueError(
                f"the feature {taken[0]!r} is the pipeline's own; rename it"
            )
        if self._packed:
            self._check_packed(data.packing)
        self._counted = np.arange(max((s.room for s in self._streams), default=0))

    def _check_packed(self, packing: str) -> None:
        if self._scalars:
            raise ValueError(
                f"the features {', '.join(self._scalars)} are one value per document, "
                f"but data.packing={packing!r} puts several documents into a "
                "row; set data.packing='pad'"
            )
        if len(self._streams) != 1 or self._streams[0].prefix:
            names = [k for s in self._streams for k in s.names]
            raise ValueError(
                f"the features {', '.join(names)} are of {len(self._streams)} texts, "
                f"but data.packing={packing!r} fits one; set "
                "data.packing='chunk' or 'pad'"
            )

    def empty(self, rows: int) -> Batch:
        """A batch of zeros."""
        out = {k: np.zeros(rows, self.kinds[k][1]) for k in self._scalars}
        for prefix, names, room in self._streams:
            for k in names:
                out[k] = np.zeros((rows, room), self.kinds[k][1])
            for k in _OWN:
                out[prefix + k] = np.zeros((rows, room), np.int32)
        if not self._packed:
            out["valid"] = np.zeros(rows, np.int32)
        return out

    def is_cut(self, piece: Piece, example: Batch) -> bool:
        """Whether there is more of the example than this piece of it."""
        if not self._packed:
            return False
        n = len(example[self._streams[0].names[0]])
        return piece.stop - piece.start < n

    def write(self, out: Batch, row: int, piece: Piece, example: Batch) -> None:
        """Puts a piece of an example into its place in `row`, whatever `piece.row`."""
        start, column = piece.start, piece.column
        for prefix, names, room in self._streams:
            stop = piece.stop if self._packed else room
            n = min(stop, len(example[names[0]])) - start
            for k in names:
                out[k][row, column : column + n] = example[k][start : start + n]
            out[prefix + "segment_ids"][row, column : column + n] = piece.segment
            out[prefix + "positions"][row, column : column + n] = self._counted[:n]
        for k in self._scalars:
            out[k][row] = example[k]
        if not self._packed:
            out["valid"][row] = 1

    def check(self, example: Batch, wanted: int | None) -> None:
        """Raises ValueError unless an example is as the first one was.

        Args:
          example: its features.
          wanted: how long its arrays have to be; None: no longer than a row's room
            where there are several streams (a single one is cut).
        """
        if (kinds := _kinds(example)) != self.kinds:
            raise ValueError(
                "its features are not those of the first example: "
                f"{differences(kinds, self.kinds)}; accepted: the same of each"
            )
        for _, names, room in self._streams:
            length = len(example[names[0]]) if wanted is None else wanted
            for k in names:
                if example[k].shape != (length,):
                    raise ValueError(
                        f"the feature {k!r} has the shape {example[k].shape}; "
                        f"accepted: [{length}], as "
                        + (
                            f"{names[0]!r} has"
                            if wanted is None
                            else "the task's `length` foretold"
                        )
                    )
            if wanted is None and len(self._streams) > 1 and length > room:
                raise ValueError(
                    f"the feature {names[0]!r} has {length} places and its row {room}; "
                    "raise data.seq_len or data.encoder_seq_len"
                )


def differences(a: Kinds, b: Kinds) -> str:
    """What is not the same, in words; "" where nothing is."""
    return ", ".join(
        f"{k!r} is {_told(a.get(k))} and {_told(b.get(k))}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k) != b.get(k)
    )


def _told(kind: tuple[int, np.dtype] | None) -> str:
    return f"{kind[1]}{'[n]' * kind[0]}" if kind else "absent"


def _kinds(example: Batch) -> Kinds:
    return {k: (v.ndim, v.dtype) for k, v in example.items()}


def _prefix(name: str) -> str:
    return next((p for p in PREFIXES if name.startswith(p)), "")
