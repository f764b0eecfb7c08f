"""The arrays of a batch, and where the features of an example lie in them.

Features along the tokens of one text form a stream; each stream has its own segments,
positions and room in a row. Features without a declaration are inferred: a scalar is
one value of the document, `[n]` lies along the tokens, in the stream "encoder" or
"other" if its name begins with "encoder_" or "other_".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from llmjax.config import DataConfig
from llmjax.data.batches.packing import Piece

Batch = dict[str, np.ndarray]
PACKED = ("concat", "first_fit")  # several documents in a row
_INFERRED_STREAMS = ("encoder", "other")
_OWN = ("segment_ids", "positions")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One array of a task's features.

    Attributes:
      per: "token": an example has it as `[n, *shape]`, along the tokens of `stream`;
        "segment": as `shape`, one value of the document.
      stream: "": the row's own. Another name has segments and positions of its own,
        `<stream>_segment_ids` and `<stream>_positions`.
      shape: of one token's or one document's value.
      dtype: None: that of the first example.
      room: tokens of `stream` in a row; None: `data.seq_len`, of the stream "encoder"
        `data.encoder_seq_len`.
    """

    per: Literal["token", "segment"] = "token"
    stream: str = ""
    shape: tuple[int, ...] = ()
    dtype: Any = None
    room: int | None = None

    def __post_init__(self):
        if self.room is not None and not self.stream:
            raise ValueError(
                f"a feature of the row's own stream has room={self.room}; its room is "
                "data.seq_len: name a stream, or leave room out"
            )
        if self.stream and self.per == "segment":
            raise ValueError(
                f"a feature per segment has stream={self.stream!r}; it belongs to the "
                "row's own segments: leave stream out"
            )

    def __str__(self) -> str:
        along = ["n"] if self.per == "token" else []
        dims = ", ".join([*along, *map(str, self.shape)])
        stream = f" of the stream {self.stream!r}" if self.stream else ""
        return f"{self.dtype}{f'[{dims}]' if dims else ''}{stream}"


class Stream(NamedTuple):
    """Features that lie side by side, [room, …] each in a row."""

    name: str
    features: tuple[str, ...]
    room: int

    def own(self, array: str) -> str:
        """The batch's name of the stream's segment ids or positions."""
        return f"{self.name}_{array}" if self.name else array


class Streams:
    """How the features of a run's examples lie in a batch.

    Attributes:
      features: each with its dtype.
      per_segment: the names of those that have one value per document.
    """

    def __init__(
        self, example: Batch, data: DataConfig, declared: Mapping[str, Feature]
    ):
        """Infers from one example what is not declared.

        Raises:
          ValueError: the features can't be packed as `data.packing` says, or aren't
            what is declared.
        """
        if absent := sorted(declared.keys() - example.keys()):
            raise ValueError(
                f"the feature {absent[0]!r} is declared, and the first example has "
                f"only {', '.join(example)}; return it, or declare it no more"
            )
        self.features = {
            k: _with_dtype(declared[k], v) if k in declared else _infer(k, v)
            for k, v in example.items()
        }
        self.per_segment = tuple(
            k for k, feature in self.features.items() if feature.per == "segment"
        )
        self._packed = data.packing in PACKED
        self._streams = _streams(self.features, data)
        own = {"valid"} | {s.own(k) for s in self._streams for k in _OWN}
        if taken := sorted(own & set(example)):
            raise ValueError(
                f"the feature {taken[0]!r} is the pipeline's own; rename it"
            )
        self._layouts = {
            k: (("n", *f.shape) if f.per == "token" else f.shape, f.dtype)
            for k, f in self.features.items()
        }
        if self._packed:
            self._check_packed(data)
        self._counted = np.arange(max((s.room for s in self._streams), default=0))

    def _check_packed(self, data: DataConfig) -> None:
        values = ", ".join(self.per_segment)
        if self.per_segment and data.packing == "concat":
            raise ValueError(
                f"the features {values} are one value per document, but data.packing="
                "'concat' cuts documents over two rows; set data.packing='first_fit', "
                "which keeps them whole, or data.packing='pad'"
            )
        if self.per_segment and data.seq_lens:
            raise ValueError(
                f"the features {values} are one value per document, but data.seq_lens "
                "cuts rows and their documents; set data.seq_lens=()"
            )
        if len(self._streams) != 1 or self._streams[0].name:
            names = [k for s in self._streams for k in s.features]
            raise ValueError(
                f"the features {', '.join(names)} are of {len(self._streams)} texts, "
                f"but data.packing={data.packing!r} fits one; set "
                "data.packing='chunk' or 'pad'"
            )

    def empty(self, rows: int, segments: int) -> Batch:
        """A batch of zeros; `segments`: the most of a packed row."""
        lead = (rows, segments) if self._packed else (rows,)
        out = {
            k: np.zeros((*lead, *self.features[k].shape), self.features[k].dtype)
            for k in self.per_segment
        }
        for stream in self._streams:
            lead_T = (rows, stream.room)
            for k in stream.features:
                feature = self.features[k]
                out[k] = np.zeros((*lead_T, *feature.shape), feature.dtype)
            for k in _OWN:
                out[stream.own(k)] = np.zeros(lead_T, np.int32)
        if self.per_segment or not self._packed:
            out["valid"] = np.zeros(lead, np.int32)
        return out

    def is_cut(self, piece: Piece, example: Batch) -> bool:
        """Whether there is more of the example than this piece of it."""
        if not self._packed:
            return False
        n = len(example[self._streams[0].features[0]])
        return piece.stop - piece.start < n

    def write(self, out: Batch, row: int, piece: Piece, example: Batch) -> None:
        """Puts a piece of an example into its place in `row`, whatever `piece.row`."""
        start, column = piece.start, piece.column
        for stream in self._streams:
            stop = piece.stop if self._packed else stream.room
            n = min(stop, len(example[stream.features[0]])) - start
            for k in stream.features:
                out[k][row, column : column + n] = example[k][start : start + n]
            out[stream.own("segment_ids")][row, column : column + n] = piece.segment
            out[stream.own("positions")][row, column : column + n] = self._counted[:n]
        place = (row, piece.segment - 1) if self._packed else (row,)
        for k in self.per_segment:
            out[k][place] = example[k]
        if self.per_segment or not self._packed:
            out["valid"][place] = 1

    def check(self, example: Batch, length: int | None) -> None:
        """Checks that an example is like the first one.

        Args:
          example: its features.
          length: of the arrays along its tokens; None: no longer than a row's room
            where there are several streams (a single one is cut).

        Raises:
          ValueError: it is not.
        """
        self._require(example)
        for _, names, room in self._streams:
            n = len(example[names[0]]) if length is None else length
            for k in names:
                if len(example[k]) != n:
                    raise ValueError(
                        f"the feature {k!r} has the shape {example[k].shape}; "
                        f"accepted: [{n}], as "
                        + (
                            f"{names[0]!r} has"
                            if length is None
                            else "the task's `length` predicts"
                        )
                    )
            if length is None and len(self._streams) > 1 and n > room:
                raise ValueError(
                    f"the feature {names[0]!r} has {n} places and its row {room}; "
                    "raise data.seq_len or data.encoder_seq_len"
                )

    def _require(self, example: Batch) -> None:
        per_segment = self.per_segment
        layouts = {
            k: (
                v.shape if k in per_segment or not v.ndim else ("n", *v.shape[1:]),
                v.dtype,
            )
            for k, v in example.items()
        }
        if layouts != self._layouts:
            features = {
                k: _infer(k, v)
                if k not in self.features
                else _seen(self.features[k], v)
                for k, v in example.items()
            }
            raise ValueError(
                "its features are not those of the first example, or as declared: "
                f"{differences(features, self.features)}; accepted: the same of each"
            )


def differences(a: Mapping[str, Feature], b: Mapping[str, Feature]) -> str:
    """The features that differ, in words; "" where none does."""
    return ", ".join(
        f"{k!r} is {a.get(k, 'absent')} and {b.get(k, 'absent')}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k) != b.get(k)
    )


def _streams(features: Mapping[str, Feature], data: DataConfig) -> list[Stream]:
    """The streams, the row's own first."""
    names = [f.stream for f in features.values() if f.per == "token"]
    streams = []
    for name in sorted(dict.fromkeys(names), key=bool):
        members = {
            k: f for k, f in features.items() if f.per == "token" and f.stream == name
        }
        rooms = {f.room for f in members.values() if f.room is not None}
        if len(rooms) > 1:
            raise ValueError(
                f"the features {', '.join(members)} of the stream {name!r} have the "
                f"rooms {', '.join(map(str, sorted(rooms)))}; accepted: one of them"
            )
        encoder = data.encoder_seq_len if name == "encoder" else None
        room = next(iter(rooms), encoder or data.seq_len)
        streams.append(Stream(name, tuple(members), room))
    return streams


def _with_dtype(feature: Feature, value: np.ndarray) -> Feature:
    dtype = value.dtype if feature.dtype is None else np.dtype(feature.dtype)
    return dataclasses.replace(feature, dtype=dtype)


def _infer(name: str, value: np.ndarray) -> Feature:
    """A feature without a declaration.

    Raises:
      ValueError: neither [n] nor a scalar.
    """
    if value.ndim > 1:
        raise ValueError(
            f"the feature {name!r} has the shape {value.shape}; "
            "accepted: [n] or a scalar, or a shape that a `Feature` declares"
        )
    if not value.ndim:
        return Feature("segment", dtype=value.dtype)
    starts = (s for s in _INFERRED_STREAMS if name.startswith(f"{s}_"))
    return Feature("token", next(starts, ""), dtype=value.dtype)


def _seen(feature: Feature, value: np.ndarray) -> Feature:
    """`feature` with the shape and dtype of `value`."""
    if feature.per == "token" and not value.ndim:
        return _infer("", value)
    shape = value.shape[1:] if feature.per == "token" else value.shape
    return dataclasses.replace(feature, shape=shape, dtype=value.dtype)
