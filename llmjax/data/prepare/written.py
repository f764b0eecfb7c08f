"""The columns of conversations, and of texts with what is to be written for them."""

import dataclasses
import sys
from collections.abc import Sequence

from llmjax.config import DataConfig, FramedText, Messages, RecordField, Text
from llmjax.data.files import columns, finding
from llmjax.data.prepare.sources import features_of, is_local

# usual names of columns, in any case
MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat")
PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("completion", "response", "output", "answer")
TOOLS = ("tools", "functions")
SOURCES = ("source", "src", "input", "document", "article", "text", "dialogue")
TARGETS = ("target", "tgt", "output", "summary", "highlights", "translation")
# of a dataset's rows, and neither source nor target
OTHERS = ("id", "idx", "index", "split", "")


def with_messages(
    data: DataConfig, name: str, kind: Messages, *, said: bool = True
) -> DataConfig:
    """`data` with a field of conversations, read off the source.

    They are in a column, or questions and answers are in one each. Fields that the
    config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      name: of the field.
      kind: its type, but for the columns of answers and tools.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    there = _columns(data)
    if not there:
        return data
    whole = _usual(there, MESSAGES)
    if len(whole) == 1:
        column, answer = whole[0], ""
    else:
        asked, answers = _usual(there, PROMPTS), _usual(there, ANSWERS)
        if whole or len(asked) != 1 or len(answers) != 1:
            raise ValueError(
                f"data.source={data.source!r} has the columns {_listed(there)}; one of "
                f"{_listed(MESSAGES[:2])}, or one of {_listed(PROMPTS)} beside one of "
                f"{_listed(ANSWERS)}, has conversations: name it in "
                "data.prepare.fields, as a field of kind 'messages'"
            )
        column, answer = asked[0], answers[0]
    tools = _usual(there, TOOLS)
    kind = dataclasses.replace(kind, answer=answer, tools=tools[0] if tools else "")
    field = RecordField(name, column, kind)
    return _with(data, (field,), f"{name} in {_listed(field.columns)}", said)


def with_texts(
    data: DataConfig, source: str, target: str, kind: FramedText, *, said: bool = True
) -> DataConfig:
    """`data` with fields for texts and what is to be written for them.

    Of two columns the first is the text. See `with_messages`.

    Args:
      data: of one source.
      source, target: names of the fields.
      kind: type of the source.
      said: whether to say it.
    """
    there = _columns(data)
    if not there:
        return data
    rest = [column for column in there if column.lower() not in OTHERS]
    sources = _usual(there, (source, *SOURCES))
    targets = _usual(there, (target, *TARGETS))
    if len(sources) != 1 or len(targets) != 1:
        if len(rest) != 2:
            raise ValueError(
                f"data.source={data.source!r} has the columns {_listed(there)}; name "
                "those of the texts and of what is to be written in "
                f"data.prepare.fields, as {source!r} and {target!r}"
            )
        sources, targets = rest[:1], rest[1:]
    fields = (
        RecordField(source, sources[0], kind),
        RecordField(target, targets[0], Text()),
    )
    words = f"{source} in {sources[0]!r}, {target} in {targets[0]!r}"
    return _with(data, fields, words, said)


def _columns(data: DataConfig) -> tuple[str, ...]:
    """The columns of the source; () where the config leaves nothing to be found."""
    if data.mixture or data.prepare.fields:
        return ()
    if not is_local(data.source):
        return features_of(data, data.source)
    if not finding.exists(data.source):
        return ()
    return columns.names(finding.find(data.source))


def _usual(there: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in there if column.lower() in names]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _with(
    data: DataConfig, fields: tuple[RecordField, ...], words: str, said: bool
) -> DataConfig:
    if said:
        print(f"data.source={data.source!r}: {words}", file=sys.stderr)
    prepare = dataclasses.replace(data.prepare, fields=fields)
    return dataclasses.replace(data, prepare=prepare)
