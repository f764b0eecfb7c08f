"""Preferences between answers in conversations, which the chat template writes.

A record has a conversation for each side: messages, and the answer that is the last of
them. What the template writes for that answer is learned, its end of turn too, and all
before it is the prompt.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.config import Messages, wording
from llmjax.data.store import conversations
from llmjax.data.store.records import RecordSource
from llmjax.data.tokenizers.chats import answers, messages
from llmjax.data.tokenizers.chats.answers import Marked
from llmjax.tasks.preferences.rows import BOTH, Rows, Unpaired

WHOLE = "whole"  # of an example whose texts have their special tokens


def are_messages(fields: Mapping[str, Any], names: Mapping[str, str]) -> bool:
    """Whether both answers are in conversations.

    Args:
      fields: name -> type, of the records.
      names: of the fields, by "chosen" and "rejected".
    """
    return all(isinstance(fields.get(names[side]), Messages) for side in BOTH)


def asked(
    vocabulary: Any, kind: Messages, prompt: Any, completion: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a row of a file, before its answer and of it.

    Args:
      vocabulary: a tokenizer with a chat template.
      kind: of the field that was learned from.
      prompt: messages, or a text of the user.
      completion: a text of the assistant, or messages that end with one.

    Raises:
      ValueError: they are none, or the template refuses them.
    """
    before, behind = map(messages.from_cell, (prompt, completion))
    if isinstance(behind, str):
        behind = {"role": kind.roles[0], "content": behind}
    try:
        talk = [*messages.of(before), *messages.of(behind)]
    except ValueError as e:
        raise ValueError(f"a conversation is {e}") from e
    options = conversations.options(kind, None)
    marked = answers.mark(vocabulary, talk, roles=kind.roles, last=True, **options)
    return last_answer(marked)


def last_answer(sequence: Marked) -> tuple[np.ndarray, np.ndarray]:
    """The tokens before a sequence's last answer, and those of it."""
    ids, is_answer = sequence
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_answer, [0]])))
    start, stop = int(edges[-2]), int(edges[-1])
    return ids[:start], ids[start:stop]


def pairs(
    records: RecordSource,
    names: Mapping[str, str],
    where: str,
    *,
    room: int,
    around: int,
    longest: int,
) -> Rows:
    """A row for each record with two different answers; the others are counted.

    Args:
      records: of a split.
      names: of the fields, by "chosen", "rejected", and others of numbers.
      where: names the split.
      room: tokens of a text that fit into a row of the task.
      around: tokens that it puts around one and not around these, less those that a
        row lacks.
      longest: tokens of the longest prompt that leaves room for an answer.

    Raises:
      ValueError: no record is left, or prompts leave no room for an answer.
    """
    places, lengths, same, long = [], [], [], []
    read = _Read(records, dict(names))
    for place in range(len(records)):
        example = read(place)
        if example is None or np.array_equal(example["chosen"], example["rejected"]):
            same.append(place)
            continue
        if len(example["prompt"]) > longest:
            long.append(place)
        places.append(place)
        answer = max(len(example[side]) for side in BOTH)
        lengths.append(len(example["prompt"]) + answer - around)
    if long:
        raise ValueError(
            f"{len(long):,} of the {len(places):,} records of {where} have a prompt "
            f"of more than {longest} tokens, so that nothing of an answer is read; the "
            f"first is record {long[0]}: raise data.seq_len, or take them out"
        )
    if not places:
        raise ValueError(
            f"in all records of {where} {names['chosen']!r} and {names['rejected']!r} "
            "are one text, or none; look at data.prepare.fields"
        )
    if same:
        print(
            f"{where}: {wording.count(len(same), 'pair')} left out whose answers are "
            f"one text, or not there; the first is record {same[0]}",
            file=sys.stderr,
        )
    kept = dataclasses.replace(read, places=np.array(places, np.int64))
    return Rows.fitted(np.array(lengths, np.int64), kept, room)


def unpaired(pairs: Rows) -> Rows:
    """Two rows for each pair: its chosen answer, which is good, and the other."""
    lengths = np.repeat(pairs.lengths, 2)  # of the longer one
    read: Any = pairs.read
    return Rows(lengths, Unpaired(read), 2 * pairs.cut)


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """The example of a record; picklable."""

    records: RecordSource
    names: dict[str, str]
    places: np.ndarray | None = None

    def __call__(self, index: int) -> Any:
        place = index if self.places is None else int(self.places[index])
        record = self.records[place]
        example: dict[str, Any] = {WHOLE: True}
        for name, field in self.names.items():
            if name not in BOTH:
                example[name] = record[field]
            elif not record[field]:  # a conversation that could not be learned from
                return None
            else:
                prompt, example[name] = last_answer(record[field][-1])
                example.setdefault("prompt", prompt)
        return example
