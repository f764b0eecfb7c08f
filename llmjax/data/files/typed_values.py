"""Values of files and datasets as the typed fields of records, checked."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmjax.config import (
    FieldType,
    Label,
    Labels,
    Messages,
    Number,
    Numbers,
    RecordField,
    Spans,
    Tags,
    Text,
    Texts,
    Words,
)
from llmjax.data.files.slices import Row, label_name
from llmjax.data.store import conversations
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.tokenizers.chats import messages

Record = dict[str, Any]  # field -> value, as `records.columns_of` takes them


def record(row: Row, fields: Sequence[RecordField], schema: RecordSchema) -> Record:
    """The typed values of a row; texts stay as they are.

    Args:
      row: its values by column.
      fields: where each field comes from.
      schema: their types, with the classes that have names.

    Raises:
      ValueError: a value is not of its field's type, or tags or spans don't fit their
        words or text; names the place, the column and what is accepted.
    """
    values: Record = {}
    # Texts and words first: spans and tags are checked against them.
    for field in sorted(fields, key=lambda f: isinstance(f.type, Tags | Spans)):
        kind = schema.fields[field.name]
        several = getattr(kind, "columns", ())
        numbered = not getattr(field.type, "classes", ())
        parts = []
        for column in several or (field.column or field.name,):
            try:
                if several:
                    parts.append(_part(kind, row.values[column]))
                elif isinstance(kind, Messages):
                    parts.append(_conversation(kind, row.values, column))
                else:
                    parts.append(_value(kind, row.values[column], values, numbered))
            except ValueError as e:
                raise ValueError(
                    f"{row.where()}: the column {column!r} is {e}; mend it, or change "
                    f"the field {field.name!r} of data.prepare.fields, of kind "
                    f"{kind.kind!r}"
                ) from None
        values[field.name] = _joined(kind, parts) if several else parts[0]
    return values


def spans(kind: Spans, value: Any, text: str) -> list[tuple[int, int, str | None]]:
    """Start, stop and class of each span of a cell.

    Raises:
      ValueError: none, or not in the text; says what it is instead: "… and no span".
    """
    numbered = not kind.classes
    return [_span(kind, s, text, numbered) for s in _span_list(_from_json(value))]


def _part(kind: FieldType, value: Any) -> Any:
    """A value of one of the columns of a field that has several."""
    if isinstance(kind, Numbers):
        return _number(value)
    name = None if isinstance(value, list | dict | bytes) else label_name(value)
    number = {"0": 0, "1": 1, "False": 0, "True": 1}.get(name or "")
    if number is None:
        raise ValueError(f"{_described(value)} and neither 0 nor 1")
    return number


def _joined(kind: FieldType, parts: Sequence[Any]) -> list[Any]:
    """The value of a field that has several columns, from theirs."""
    if isinstance(kind, Labels):
        return [name for name, there in zip(kind.columns, parts, strict=True) if there]
    return list(parts)


def _value(kind: FieldType, value: Any, others: Record, numbered: bool) -> Any:
    """A value of a type.

    Args:
      kind: the type.
      value: of the column.
      others: values of the fields before.
      numbered: whether the data names the classes, so that an int is a class's number.

    Raises:
      ValueError: says what it is instead; "the column is …".
    """
    if isinstance(kind, Text):
        return _text(value)
    if isinstance(kind, Words):
        words = value.split() if isinstance(value, str) else value
        return _list(words, _text, "words")
    if isinstance(kind, Texts):
        return _list(_from_json(value), _text, "texts")
    if isinstance(kind, Number):
        return _number(value)
    if isinstance(kind, Numbers):
        return _numbers(value)
    if isinstance(kind, Label):
        return _class(kind.classes, value, numbered)
    if isinstance(kind, Labels):
        return _labels(kind, value, numbered)
    if isinstance(kind, Tags):
        items = value.split() if isinstance(value, str) else value
        tags = _list(items, lambda v: _class(kind.classes, v, numbered), "tags")
        words = others[kind.words]
        if empty := [k for k, word in enumerate(words) if not word.strip()]:
            raise ValueError(f"of {kind.words!r}, whose word {empty[0]} is empty")
        if len(tags) != len(words):
            raise ValueError(
                f"{len(tags)} tags for {len(words)} words of {kind.words!r}"
            )
        return tags
    assert isinstance(kind, Spans)  # a conversation has columns of its own
    text = others[kind.text]
    return [_span(kind, s, text, numbered) for s in _span_list(_from_json(value))]


def _conversation(kind: Messages, values: Mapping[str, Any], column: str) -> str:
    """The JSON of a conversation, of one column or of a question's and an answer's."""
    parts = messages.of(messages.from_cell(values[column]))
    if kind.answer:
        answer = messages.from_cell(values[kind.answer])
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        try:
            parts = parts + messages.of(answer)
        except ValueError as e:
            raise ValueError(f"beside {kind.answer!r}, which is {e}") from None
    tools = messages.from_cell(values[kind.tools]) if kind.tools else None
    if tools is not None and not isinstance(tools, list):
        raise ValueError(
            f"beside {kind.tools!r}, which is {_described(tools)} and no list of "
            "functions' JSON schemas"
        )
    return conversations.to_json(parts, tools or None)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_described(value)} and no text")
    return value


def _list(value: Any, item: Callable[[Any], Any], what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{_described(value)} and no list of {what}")
    return [item(v) for v in value]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{_described(value)} and no number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{_described(value)} and no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{_described(value)} and no finite number")
    return number


def _numbers(value: Any) -> list[float]:
    """Numbers of a list, of JSON, or one alone."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _from_json(value)
    numbers = [_number(v) for v in (value if isinstance(value, list) else [value])]
    if not numbers:
        raise ValueError("an empty list and no numbers")
    return numbers


def _labels(kind: Labels, value: Any, numbered: bool) -> list[str]:
    """The names of classes, each once, of a list, of JSON or of names in a cell."""
    if isinstance(value, str):
        as_json = value.lstrip().startswith("[")
        parts = value.split(kind.separator)
        value = _from_json(value) if as_json else [p for p in parts if p.strip()]
    if isinstance(value, int | float) and value == value:
        value = [value]
    if not isinstance(value, list):
        raise ValueError(
            f"{_described(value)} and no list of classes; [] is none of them"
        )
    names = [_class(kind.classes, v, numbered) for v in value]
    if None in names:
        raise ValueError(
            f"a list with {_described(value[names.index(None)])}, which is no class"
        )
    return list(dict.fromkeys(filter(None, names)))


def _class(classes: tuple[str, ...], value: Any, numbered: bool) -> str | None:
    """The name of a class, by its name or number; None for none.

    Where the data names the classes (`numbered`), an int is a number, whatever the
    names: of the classes "1" and "2", 1 is the second. Where classes have names, -1 is
    none, unless it is a name.
    """
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"{_described(value)} and no class")
    name = value if isinstance(value, str) and value in classes else label_name(value)
    if isinstance(value, float) and name and "." in name:
        raise ValueError(f"{_described(value)} and no class")
    number_alone = numbered and isinstance(value, int | float)
    if name is None or not classes or (name in classes and not number_alone):
        return name
    if name == "-1":
        return None
    if name.isdecimal() and len(name) < 10 and int(name) < len(classes):
        return classes[int(name)]
    raise ValueError(
        f"{_described(value)} and no class; accepted: {', '.join(classes)}"
    )


def _span_list(value: Any) -> list[Any]:
    """Spans as a list, of a list or of lists by name."""
    if isinstance(value, Mapping):
        names, columns = list(value), list(value.values())
        if not all(isinstance(column, list) for column in columns):
            return [value]
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"lists of several lengths ({', '.join(names)})")
        rows = zip(*columns, strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]
    if not isinstance(value, list):
        raise ValueError(f"{_described(value)} and no list of spans")
    alone = len(value) in (2, 3) and isinstance(value[0], int)
    return [value] if alone else value


def _span(
    kind: Spans, value: Any, text: str, numbered: bool
) -> tuple[int, int, str | None]:
    """Start, stop and class of a span, of the text's characters."""
    label = None
    if isinstance(value, Mapping) and "answer_start" in value:  # SQuAD's
        start, answer = value["answer_start"], _text(value.get("text"))
        stop = start + len(answer) if isinstance(start, int) else None
        if stop is not None and text[start:stop] != answer:
            raise ValueError(
                f"{answer!r} at the character {start} of {kind.text!r}, where there is "
                f"{text[start:stop]!r}"
            )
    elif isinstance(value, Mapping):
        start = value.get("start")
        stop = value.get("stop", value.get("end"))
        label = value.get("label")
    elif isinstance(value, list) and len(value) in (2, 3):
        start, stop, label = (*value, None)[:3]
    else:
        raise ValueError(
            f"{_described(value)} and no span, such as [start, stop, class]"
        )
    if not isinstance(start, int) or not isinstance(stop, int):
        raise ValueError(f"a span from {start!r} to {stop!r} and not of two numbers")
    if not 0 <= start < stop <= len(text):
        raise ValueError(
            f"a span [{start}, {stop}) that is not in the {len(text)} characters of "
            f"{kind.text!r}"
        )
    return start, stop, _class(kind.classes, label, numbered)


def _from_json(value: Any) -> Any:
    """The JSON in a cell of a .csv; other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"{_described(value)} and no JSON") from None


def _described(value: Any) -> str:
    text = repr(value)
    shown = text if len(text) < 40 else text[:37] + "..."
    return "nothing" if value is None else f"{type(value).__name__} {shown}"
