"""Conversations of records: their JSON, and their sequences of tokens on disk.

A record's sequences lie end to end: `.ids` has the tokens of all, `.sizes` how many
each has, `.answers` the places [start, stop) of answers among all of them.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llmjax.config import Messages, wording
from llmjax.data.tokenizers.chats import answers
from llmjax.data.tokenizers.chats.answers import Marked
from llmjax.data.tokenizers.tokenizer import Tokenizer

COLUMNS = (".ids", ".answers", ".sizes")


def to_json(messages: Sequence[Any], tools: Sequence[Any] | None) -> str:
    """A conversation as a file of records has it."""
    value = {"messages": messages, **({} if tools is None else {"tools": tools})}
    return json.dumps(value, ensure_ascii=False)


def from_json(text: str) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages and tools of `to_json`."""
    value = json.loads(text)
    return value["messages"], value.get("tools")


def contents(text: str) -> list[str]:
    """The texts of a conversation's messages."""
    said = [message.get("content") for message in from_json(text)[0]]
    return [content for content in said if isinstance(content, str)]


def options(kind: Messages, tools: Sequence[Any] | None) -> dict[str, Any]:
    """The variables that a template is given beside the messages."""
    thinking = {} if kind.thinking is None else {"enable_thinking": kind.thinking}
    return {"template": kind.template or None, "tools": tools, **thinking}


class Encoder:
    """Encodes the conversations of a split, and counts what can't be.

    Attributes:
      columns: names of what it makes, behind the field's.
      split: number of conversations that took more than one sequence.
    """

    columns: ClassVar[tuple[str, ...]] = COLUMNS

    def __init__(self, tokenizer: Tokenizer, kind: Messages, where: str):
        """
        Args:
          tokenizer: with a chat template.
          kind: of the field.
          where: names the field and the split.

        Raises:
          ValueError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_templates:
            raise ValueError(
                f"{where}: the tokenizer has no chat template, so nothing says how "
                "messages are written; put a chat_template.jinja beside its "
                "tokenizer.json (that of the model's chat version, say), or start from "
                "weights that have one"
            )
        self._tokenizer, self._kind, self._where = tokenizer, kind, where
        self._count, self._refused, self.split = 0, 0, 0
        self._first = ""

    def __call__(self, text: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """The columns of a record."""
        messages, tools = from_json(text)
        sequences: list[Marked] = []
        try:
            sequences = answers.split(
                self._tokenizer,
                messages,
                roles=self._kind.roles,
                **options(self._kind, tools),
            )
        except ValueError as e:
            self._first = self._first or f"record {self._count}: {e}"
            self._refused += 1
        self._count += 1
        self.split += len(sequences) > 1
        return row(sequences)

    def finish(self) -> None:
        """Says what was left out, or refuses it.

        Raises:
          ValueError: conversations that can't be learned from; how many, and the first.
        """
        if self.split:
            print(
                f"{self._where}: {wording.count(self.split, 'conversation')} of "
                f"{self._count:,} in several sequences, as the chat template rewrites "
                "earlier answers",
                file=sys.stderr,
            )
        if not self._refused:
            return
        said = (
            f"{self._where}: {self._refused:,} of {self._count:,} conversations can't "
            f"be learned from; {self._first}"
        )
        if self._kind.faulty == "refuse":
            raise ValueError(f"{said}; mend them, or leave them out with faulty='drop'")
        print(f"{said}; left out", file=sys.stderr)


def row(sequences: Sequence[Marked]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The columns of a record's sequences."""
    ids = np.concatenate([np.zeros(0, np.int32), *(s.ids for s in sequences)])
    marks = np.concatenate([np.zeros(0, bool), *(s.is_answer for s in sequences)])
    edges = np.diff(np.concatenate([[0], marks.astype(np.int8), [0]]))
    spans = np.flatnonzero(edges).astype(np.int32)  # start, stop, start, stop, …
    return ids.astype(np.int32), spans, [len(s.ids) for s in sequences]


def sequences(ids: np.ndarray, spans: np.ndarray, sizes: np.ndarray) -> list[Marked]:
    """The sequences of a record's columns."""
    change = np.zeros(len(ids) + 1, np.int8)
    change[spans[0::2]], change[spans[1::2]] = 1, -1
    marks = np.cumsum(change)[:-1].astype(bool)
    ends = np.cumsum(sizes)
    return [
        Marked(ids[a:b], marks[a:b]) for a, b in zip(ends - sizes, ends, strict=True)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The sequences of many records, int64 [n] each.

    Attributes:
      owners, numbers: the record of each, and which of its sequences it is.
      sizes: tokens.
      first: tokens before the first answer.
    """

    owners: np.ndarray
    numbers: np.ndarray
    sizes: np.ndarray
    first: np.ndarray

    @classmethod
    def of(
        cls, counts: Mapping[str, np.ndarray], flat: Mapping[str, np.ndarray]
    ) -> "Index":
        """The index of `counts`, values in each record, and `flat`, all values."""
        owners = np.repeat(np.arange(len(counts[".ids"])), counts[".sizes"])
        before = np.cumsum(counts[".sizes"]) - counts[".sizes"]
        sizes = flat[".sizes"]
        starts = np.cumsum(sizes) - sizes
        begins = np.cumsum(counts[".ids"]) - counts[".ids"]  # of each record
        begun = flat[".answers"][::2] + np.repeat(begins, counts[".answers"] // 2)
        at = np.searchsorted(begun, starts)
        first = np.append(begun, starts[-1:] + sizes[-1:])[at] - starts
        return cls(owners, np.arange(len(owners)) - before[owners], sizes, first)


def prompted(
    tokenizer: Tokenizer, kind: Messages, messages: Sequence[Any], tools: Any = None
) -> np.ndarray:
    """The tokens of a conversation that the model is to go on with, int32 [n]."""
    text = tokenizer.apply_chat_template(messages, **options(kind, tools))
    return tokenizer.encode(text, parse_specials=True)
