"""Users' events in the order of time, and what of them is learned and held out."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmjax.config import GlobalTime, LeaveLastOut, wording

SPLITS = ("train", "validation", "test")
EXACT = 2.0**53  # up to here a float64 has every whole number


@dataclasses.dataclass(frozen=True, eq=False)
class Histories:
    """Examples {"items": ids, "held_out": bool, "seen": ids}; picklable.

    Of an example that is held out only the last item is predicted, else each.

    Attributes:
      items: int32, of all users end to end, each in the order of time.
      places: int64 [len, 4], of each example the first item and behind the last, and
        of all that its user has in the same split.
      held_out: whether they are.
      cut: how many histories are longer than a row.
    """

    items: np.ndarray
    places: np.ndarray
    held_out: bool
    cut: int = 0

    @property
    def lengths(self) -> np.ndarray:
        """Items of each, int64 [len]."""
        return self.places[:, 1] - self.places[:, 0]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"history {index} of {len(self)}")
        start, stop, first, last = self.places[index].tolist()
        items = self.items[start:stop]
        seen = np.unique(self.items[first:last])
        return {"items": items, "held_out": self.held_out, "seen": seen}


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Histories in memory, each with a place behind it for the item that is asked."""

    rows: Sequence[np.ndarray]
    room: int

    @property
    def lengths(self) -> np.ndarray:
        """Items of each and one more, cut, int64 [len]."""
        sizes = np.array([len(row) + 1 for row in self.rows], np.int64)
        return np.minimum(sizes, self.room)

    @property
    def cut(self) -> int:
        """How many are longer than a row."""
        return sum(len(row) >= self.room for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        row = self.rows[index]
        items = np.append(row[max(0, len(row) + 1 - self.room) :], 0)
        return {"items": items, "held_out": True, "seen": np.unique(row)}


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """Events sorted by user and time; of one time, as they came.

    Attributes:
      items: int32 [E].
      times: float64 [E].
      starts: int64 [users + 1], where each user's begin, and the number of events.
    """

    items: np.ndarray
    times: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> "Events":
        """Sorted; arguments are [E] each, in the order of the file."""
        order = np.lexsort((np.arange(len(users)), times, users))
        starts = np.flatnonzero(np.diff(users[order], prepend=-1))
        ends = np.append(starts, len(users)).astype(np.int64)
        return cls(items[order].astype(np.int32), times[order], ends)

    def split(self, how: LeaveLastOut | GlobalTime, name: str) -> np.ndarray:
        """Of each user that has an example in a split, int64 [n, 2]: its first event,
        and behind its last one: the item that is held out, or the last to learn from.

        Raises:
          ValueError: no such split.
        """
        if name not in SPLITS:
            raise ValueError(
                f"task 'next_item' has no split {name!r}; accepted: {', '.join(SPLITS)}"
            )
        begin, end = self.starts[:-1], self.starts[1:]
        if isinstance(how, LeaveLastOut):
            left_out = np.where(end - begin >= 3, 2 - SPLITS.index(name), 0)
            stop = end - left_out
            there = end - begin >= (3 if name != "train" else 1)
            return np.stack([begin, stop], axis=1)[there]
        edges = self._edges(how)
        before = [self._before(edge) for edge in (*edges, np.inf)]
        if name == "train":
            return np.stack([begin, before[0]], axis=1)[before[0] > begin]
        k = SPLITS.index(name)
        there = (before[k] > before[k - 1]) & (before[k - 1] > begin)
        return np.stack([begin, before[k - 1] + 1], axis=1)[there]

    def _edges(self, how: GlobalTime) -> tuple[float, float]:
        """The moments at which validation and test begin."""
        ordered, total = np.sort(self.times), len(self.times)
        shares = 1 - how.validation - how.test, 1 - how.test
        first, second = (min(total - 1, round(total * share)) for share in shares)
        return float(ordered[first]), float(ordered[second])

    def _before(self, edge: float) -> np.ndarray:
        """Behind each user's last event before a moment, int64 [users]."""
        earlier = np.append(0, np.cumsum(self.times < edge))
        return self.starts[:-1] + earlier[self.starts[1:]] - earlier[self.starts[:-1]]


def histories(
    events: Events, how: LeaveLastOut | GlobalTime, name: str, room: int
) -> Histories:
    """The examples of a split.

    What is learned from and longer than a row is cut into several from its end on; of
    what is held out the last items are read.

    Raises:
      ValueError: no such split, or nothing in it.
    """
    spans = events.split(how, name)
    if not len(spans):
        raise ValueError(
            f"the split {name!r} has no history of task.split.kind={how.kind!r}; "
            + (
                "it needs users with three events or more"
                if isinstance(how, LeaveLastOut)
                else "it needs users with events before the period and in it"
            )
        )
    if name != "train":
        _say_unseen(events, how, name, spans)
        start = np.maximum(spans[:, 0], spans[:, 1] - room)
        places = np.stack([start, spans[:, 1], *spans.T], axis=1)
        return Histories(events.items, places, True, int((start > spans[:, 0]).sum()))
    pieces = -(-(spans[:, 1] - spans[:, 0]) // room)
    own = np.repeat(spans, pieces, axis=0)
    ordinal = np.arange(len(own)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    stop = own[:, 1] - ordinal * room
    start = np.maximum(own[:, 0], stop - room)
    return Histories(events.items, np.stack([start, stop, *own.T], axis=1), False)


def _say_unseen(
    events: Events, how: LeaveLastOut | GlobalTime, name: str, spans: np.ndarray
) -> None:
    """Says on standard error how many targets nothing is learned of."""
    learned = np.zeros(int(events.items.max()) + 1, bool)
    for start, stop in events.split(how, "train").tolist():
        learned[events.items[start:stop]] = True
    unseen = int((~learned[events.items[spans[:, 1] - 1]]).sum())
    if unseen:
        print(
            f"split {name!r}: {wording.count(unseen, 'target')} of {len(spans):,} are "
            "items that no event to learn from has",
            file=sys.stderr,
        )
