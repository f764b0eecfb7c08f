"""The columns of prompts and their chosen and rejected answers: texts, or messages."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from llmjax.config import DataConfig, Messages, Number, RecordField
from llmjax.data.files import columns, finding, readers
from llmjax.data.prepare import labelled
from llmjax.data.prepare.pairs import only
from llmjax.data.prepare.sources import is_local
from llmjax.data.tokenizers.chats import messages


def with_pairs(
    data: DataConfig,
    prompt: str,
    chosen: str,
    rejected: str,
    numbers: Sequence[str] = (),
    *,
    said: bool = True,
) -> DataConfig:
    """`data` with fields for pairs, read off the source.

    Of texts those of `labelled.with_pairs`. Where the first row's answers are lists of
    messages, two fields with a conversation each: that of the prompt's column, where
    there is one, and the answer's. Fields that the config names stay; what is chosen
    is said on standard error.

    Args:
      data: of one source.
      prompt, chosen, rejected: names of the fields.
      numbers: names of fields that are there where a column has their name.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    fields = _conversations(data, prompt, chosen, rejected)
    if not fields:
        names = prompt, chosen, rejected
        return labelled.with_pairs(data, *names, numbers, said=said)
    there = {column.lower(): column for column in labelled.columns_of(data)}
    for name in numbers:
        if name.lower() in there:
            fields.append(RecordField(name, there[name.lower()], Number()))
    if said:
        words = ", ".join(f"{f.name} in {' and '.join(f.columns)}" for f in fields)
        print(f"data.source={data.source!r}: messages, {words}", file=sys.stderr)
    prepare = dataclasses.replace(data.prepare, fields=tuple(fields))
    return dataclasses.replace(data, prepare=prepare)


def _conversations(
    data: DataConfig, prompt: str, chosen: str, rejected: str
) -> list[RecordField]:
    """The fields of conversations; []: the answers are texts, or not to be found."""
    local = is_local(data.source) and finding.exists(data.source)
    if data.mixture or data.prepare.fields or not local:
        return []
    listing = finding.find(data.source)
    there = columns.names(listing)
    lower = [column.lower() for column in there]

    def column_of(name: str, usual: Sequence[str]) -> str | None:
        usual = (name.lower(),) if name.lower() in lower else usual
        if not any(column in usual for column in lower):
            return None
        files = f"data.source={data.source!r}"
        return only(there, usual, files, f"data.prepare.fields, as the field {name!r}")

    of = {
        chosen: column_of(chosen, labelled.CHOSEN),
        rejected: column_of(rejected, labelled.REJECTED),
    }
    named = [column for column in of.values() if column]
    if len(named) < len(of):
        return []
    rows = readers.rows(listing.slices[0], dict.fromkeys(named, ""))
    first: Any = next(iter(rows), None)
    if first is None or not all(_is_talk(first.values[column]) for column in named):
        return []
    asked = column_of(prompt, labelled.PROMPTS)
    if asked is None:  # the whole conversation is in each
        return [RecordField(k, column or k, Messages()) for k, column in of.items()]
    return [RecordField(k, asked, Messages(answer=c or k)) for k, c in of.items()]


def _is_talk(value: Any) -> bool:
    """Whether a value is a list of messages, also as JSON in a cell."""
    value = messages.from_cell(value)
    return isinstance(value, list) and any(isinstance(v, dict) for v in value)
