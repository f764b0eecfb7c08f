"""Which tokens of a conversation a model writes, for a loss on those alone.

Few templates mark them (`{% generation %}`), so they are found by comparing texts that
a template renders, whatever it does to earlier turns. A message is asked for with P,
the text of the messages before it and the prompt of an answer, and answered with E, the
text up to and with it. What E has behind P is what the model must write there, its end
of turn included.

A template may write an answer in another way once more follows: without its reasoning
(Qwen 3), or with another end of turn (gpt-oss). Then E is no beginning of the longer
text, and the answer is learned from a sequence of its own, which ends with it: as the
model meets it.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from llmjax.data.tokenizers.chats import messages as messages_lib

ROLES = ("assistant",)
ASKED = ("assistant", "model")  # roles whose prompt a template writes
_SHOWN = 40  # characters of a text in a message


@runtime_checkable
class ChatTokenizer(Protocol):
    """The side of a tokenizer that marks answers.

    Attributes:
      eos_id: id of the end.
      begins_with_space: whether a piece of text, encoded alone, gets a space before it.
      added_tokens: text -> id of the tokens that no text is cut into.
    """

    eos_id: int
    begins_with_space: bool

    @property
    def added_tokens(self) -> Mapping[str, int]: ...

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> str: ...

    def encode_with_offsets(
        self, text: str, *, parse_specials: bool = False
    ) -> tuple[np.ndarray, np.ndarray]: ...


class Marked(NamedTuple):
    """A sequence of tokens.

    Attributes:
      ids: int32 [n].
      is_answer: bool [n], the tokens that the model writes.
    """

    ids: np.ndarray
    is_answer: np.ndarray


def mark(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    roles: Sequence[str] = ROLES,
    last: bool = False,
    **options: Any,
) -> Marked:
    """A conversation up to its last answer, as one sequence.

    Args:
      tokenizer: with a chat template.
      messages: dicts with `role` and `content`.
      roles: of the messages that the model writes.
      last: mark the last answer alone, whatever the template does to those before it.
      options: of `conversation.render`: `tools`, `template`, `enable_thinking`….

    Raises:
      ValueError: as `split`, or the template rewrites an answer once more follows.
    """
    turns = _turns(tokenizer, messages, roles, options, last)
    sequences = _sequences(tokenizer, turns)
    if len(sequences) > 1:
        final = turns[-1].whole
        changed = next(t for t in turns if _end(tokenizer, t, final) is None)
        raise ValueError(
            f"message {changed.number}: the chat template writes this answer as "
            f"{_difference(changed.whole, final)} once more follows; `split` gives it "
            "a sequence of its own, and last=True marks the last answer alone"
        )
    return sequences[0]


def split(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    roles: Sequence[str] = ROLES,
    **options: Any,
) -> list[Marked]:
    """A conversation as sequences in which each answer is marked once, as it is when it
    is the last; a single one unless the template rewrites earlier answers.

    Args: see `mark`.

    Raises:
      ValueError: no answer, one that is empty, one that the template doesn't continue
        its own prompt with, or messages that it refuses; names the message.
    """
    return _sequences(tokenizer, _turns(tokenizer, messages, roles, options))


@dataclasses.dataclass(frozen=True)
class _Turn:
    """An answer.

    Attributes:
      number: of its message.
      prompt, whole: the texts P and E.
    """

    number: int
    prompt: str
    whole: str


def _turns(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    roles: Sequence[str],
    options: Mapping[str, Any],
    last: bool = False,
) -> list[_Turn]:
    try:
        messages = messages_lib.of(list(messages))
    except ValueError as e:
        raise ValueError(f"the conversation is {e}") from e
    places = [k for k, m in enumerate(messages) if m["role"] in roles]
    if not places:
        there = dict.fromkeys(m["role"] for m in messages)
        raise ValueError(
            f"no message is of the roles to learn from ({', '.join(roles)}); the "
            f"conversation has {', '.join(there)}"
        )
    places = places[-1:] if last else places
    return [_turn(tokenizer, messages, k, options) for k in places]


def _turn(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    number: int,
    options: Mapping[str, Any],
) -> _Turn:
    role = messages[number]["role"]
    if messages_lib.is_empty(messages[number]):
        raise ValueError(
            f"message {number}, of the role {role!r}, is empty: there is nothing to "
            "learn; take it out"
        )

    def text(count: int, prompt: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                messages[:count], add_generation_prompt=prompt, **options
            )
        except ValueError as e:
            what = f"{'before' if count == number else 'up to'} message {number}"
            raise ValueError(
                f"{e}; it was to write the conversation {what} ({role})"
            ) from e

    asked = role in ASKED  # for others a template has no prompt
    turn = _Turn(number, text(number, asked), text(number + 1, False))
    if not turn.whole.startswith(turn.prompt):
        raise ValueError(
            f"message {number}, of the role {role!r}: the chat template asks for it "
            f"and then writes it as {_difference(turn.prompt, turn.whole)}, so a model "
            "would learn what it is never asked; give the template's variables so that "
            "both agree (enable_thinking, reasoning_content), or another template"
        )
    return turn


def _sequences(tokenizer: ChatTokenizer, turns: Sequence[_Turn]) -> list[Marked]:
    """Few sequences with each turn marked in one."""
    sequences, left = [], list(turns)
    while left:
        text = left[-1].whole
        ends = {t.number: _end(tokenizer, t, text) for t in left}
        spans = [
            (len(t.prompt), end) for t in left if (end := ends[t.number]) is not None
        ]
        sequences.append(_tokens(tokenizer, text, spans))
        left = [t for t in left if ends[t.number] is None]
    return sequences[::-1]


def _end(tokenizer: ChatTokenizer, turn: _Turn, text: str) -> int | None:
    """Where a turn ends in a text that goes on after it; None: the text has another.

    A template may end the whole text with a token (Phi-4) behind the turn's own end,
    which is then none of the turn's.
    """
    if text.startswith(turn.whole):
        return len(turn.whole)
    whole = turn.whole.rstrip()
    if (token := _last_added(tokenizer, whole)) is None:
        return None
    whole = whole.removesuffix(token)  # what is left must have an end of its own
    fits = _last_added(tokenizer, whole) and len(whole) > len(turn.prompt)
    return len(whole) if fits and text.startswith(whole) else None


def _last_added(tokenizer: ChatTokenizer, text: str) -> str | None:
    """The added token that a text ends with, white space aside."""
    ends = (text, text.rstrip())
    added = (t for t in tokenizer.added_tokens if t)
    return next((t for t in added if any(e.endswith(t) for e in ends)), None)


def _tokens(
    tokenizer: ChatTokenizer, text: str, spans: Sequence[tuple[int, int]]
) -> Marked:
    """The tokens of a text, those of spans of its characters marked.

    A token that lies across the border of a span would be none of the prompt's: the
    text is cut there, as it is when the model goes on from the prompt. Where pieces
    can't be encoded alone, such a token is the answer's. Where the template puts no end
    behind the last answer, the tokenizer's own is put there.
    """
    ids, offsets = tokenizer.encode_with_offsets(text, parse_specials=True)
    borders = sorted({border for span in spans for border in span})
    crossed = [b for b in borders if ((offsets[:, 0] < b) & (b < offsets[:, 1])).any()]
    if crossed and not tokenizer.begins_with_space:
        ends = [0, *crossed, len(text)]
        pieces = [
            (
                start,
                tokenizer.encode_with_offsets(text[start:stop], parse_specials=True),
            )
            for start, stop in itertools.pairwise(ends)
        ]
        ids = np.concatenate([piece for _, (piece, _) in pieces])
        offsets = np.concatenate([start + own for start, (_, own) in pieces])
    is_answer = np.zeros(len(ids), bool)
    for start, stop in spans:
        is_answer |= (offsets[:, 1] > start) & (offsets[:, 0] < stop)
    if _last_added(tokenizer, text) is None:
        ids, is_answer = np.append(ids, tokenizer.eos_id), np.append(is_answer, True)
    return Marked(ids.astype(np.int32), is_answer)


def _difference(first: str, second: str) -> str:
    """Where two texts begin to differ, in words."""
    pairs = enumerate(zip(first, second, strict=False))
    common = next((k for k, (a, b) in pairs if a != b), min(len(first), len(second)))
    start = max(0, common - _SHOWN // 4)
    parts = [text[start : start + _SHOWN] for text in (first, second)]
    return f"…{parts[0]!r} and …{parts[1]!r}"
