"""Questions with a context as examples: whole, or in windows where it is long."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class Asked(NamedTuple):
    """A question about a text.

    Attributes:
      question, ids: int32 [n], tokens of the question and of the text, without special
        tokens.
      text: as it was read.
      offsets: int32 [n, 2], the characters [start, stop) of `text` of each of `ids`.
      answers: int64 [answers, 2], the characters [start, stop) of each right answer.
    """

    question: np.ndarray
    text: str
    ids: np.ndarray
    offsets: np.ndarray
    answers: np.ndarray


@runtime_checkable
class Questions(Protocol):
    """Random access to questions, and their sizes without reading them."""

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each question and of its text, int64 [len, 2]."""

    def __getitem__(self, index: int, /) -> Asked: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """Questions in memory."""

    asked: list[Asked]

    @property
    def sizes(self) -> np.ndarray:
        pairs = [(len(a.question), len(a.ids)) for a in self.asked]
        return np.array(pairs, np.int64).reshape(-1, 2)

    def __getitem__(self, index: int, /) -> Asked:
        return self.asked[index]


class AnswerWindows:
    """Examples of questions: {"question", "context", "answer", "fresh", "window"}.

    `context` int32 [n] are the tokens of a window, and `question` at most so many of
    the question's. `answer` int32 [2] are the first and the last token of the first
    answer that lies in the window whole, or -1 twice. `fresh` bool [n] says of each
    token whether this of all windows shows it with the most text on its poorer side
    (Devlin et al. 2018, `run_squad.py`), and so may begin a predicted answer.

    Attributes:
      questions: that these are of.
      owners: int64 [len], the question of each. One whose text has no token has none.
      starts: int64 [len], the first token of each window in its text.
    """

    def __init__(
        self, questions: Questions, length: int, stride: int, max_question: int
    ):
        """Cuts texts that do not fit.

        Args:
          questions: that are asked.
          length: tokens of a question and of a window of its text together.
          stride: tokens that two windows following each other share, at most.
          max_question: tokens of a question that are read.

        Raises:
          ValueError: `length` leaves too little beside a question.
        """
        self.questions, self._max_question = questions, max_question
        asked, self._tokens = questions.sizes.T
        asked = np.minimum(asked, max_question)
        self._rooms = length - asked
        if len(asked) and self._rooms.min() <= stride:
            raise ValueError(
                f"a question of {int(asked.max())} tokens leaves "
                f"{int(self._rooms.min())} tokens of a row to its context, not more "
                f"than the {stride} that windows share (task.stride); raise "
                "data.seq_len, or lower task.stride or task.max_question"
            )
        over = np.maximum(self._tokens - self._rooms, 0)
        steps = self._rooms - stride
        counts = np.where(self._tokens > 0, 1 + -(-over // steps), 0)
        self.owners = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(self.owners)) - (np.cumsum(counts) - counts)[self.owners]
        self.starts = places * steps[self.owners]
        self._asked = asked

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each, question and context, int64 [len]."""
        rest = self._tokens[self.owners] - self.starts
        return self._asked[self.owners] + np.minimum(rest, self._rooms[self.owners])

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        index %= len(self)
        owner, start = int(self.owners[index]), int(self.starts[index])
        asked = self.questions[owner]
        stop = min(start + int(self._rooms[owner]), len(asked.ids))
        return {
            "question": asked.question[: self._max_question],
            "context": asked.ids[start:stop],
            "answer": _tokens_of(asked, start, stop),
            "fresh": self._fresh(owner, start, stop),
            "window": index,
        }

    def _fresh(self, owner: int, start: int, stop: int) -> np.ndarray:
        """Whether each token of a window is shown best by it."""
        starts = self._of(owner)
        stops = np.minimum(starts + self._rooms[owner], self._tokens[owner])
        places = np.arange(start, stop)[:, None]
        left, right = places - starts, stops - 1 - places
        score = np.minimum(left, right) + 0.01 * (stops - starts)
        score = np.where((left >= 0) & (right >= 0), score, -1)
        return starts[np.argmax(score, axis=1)] == start

    def _of(self, owner: int) -> np.ndarray:
        """The starts of a question's windows."""
        first, last = np.searchsorted(self.owners, [owner, owner + 1])
        return self.starts[first:last]


def _tokens_of(asked: Asked, start: int, stop: int) -> np.ndarray:
    """The first and last token, in the window [start, stop), of an answer in it."""
    offsets = asked.offsets
    for first, last in asked.answers.tolist():
        places = np.flatnonzero((offsets[:, 1] > first) & (offsets[:, 0] < last))
        if len(places) and start <= places[0] and places[-1] < stop:
            return np.array([places[0] - start, places[-1] - start], np.int32)
    return np.full(2, -1, np.int32)
