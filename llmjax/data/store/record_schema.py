"""The typed fields of a corpus's records."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from llmjax.config import (
    FieldType,
    FramedText,
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

_KINDS: dict[str, Any] = {
    t.kind: t
    for t in (
        Text,
        Words,
        Tags,
        Spans,
        Number,
        Numbers,
        Texts,
        Label,
        Labels,
        FramedText,
        Messages,
    )
}
TextLike = (Text, Words, Texts)


@dataclasses.dataclass(frozen=True)
class RecordSchema:
    """The fields of a corpus's records.

    Attributes:
      fields: name -> type. Tags and spans name their words or text, and with labels all
        have the names of their classes; () for spans without.
    """

    fields: Mapping[str, FieldType]

    @classmethod
    def of(cls, fields: Iterable[RecordField]) -> "RecordSchema":
        """The schema of `data.prepare.fields`; names what tags and spans refer to.

        Raises:
          ValueError: tags without words, or spans without a text.
        """
        fields = tuple(fields)
        types: dict[str, FieldType] = {}
        for field in fields:
            kind = field.type
            if isinstance(kind, Tags):
                words = _referred(field, "words", kind.words, Words, fields)
                kind = dataclasses.replace(kind, words=words)
            elif isinstance(kind, Spans):
                text = _referred(field, "text", kind.text, Text, fields)
                kind = dataclasses.replace(kind, text=text)
            types[field.name] = kind
        return cls(types)

    @classmethod
    def from_json(cls, fields: Mapping[str, Mapping[str, Any]]) -> "RecordSchema":
        """The schema that `to_json` described."""
        types = {}
        for name, values in fields.items():
            arguments = {
                k: tuple(v) if isinstance(v, list) else v
                for k, v in values.items()
                if k != "kind"
            }
            types[name] = _KINDS[values["kind"]](**arguments)
        return cls(types)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Plain dicts for the manifest."""
        return {
            name: {"kind": kind.kind, **dataclasses.asdict(kind)}
            for name, kind in self.fields.items()
        }

    def with_classes(self, classes: Mapping[str, tuple[str, ...]]) -> "RecordSchema":
        """The schema with the names of classes of some fields."""
        fields: dict[str, Any] = {**self.fields}
        for name, names in classes.items():
            fields[name] = dataclasses.replace(fields[name], classes=names)
        return RecordSchema(fields)

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the fields of texts, which have tokens."""
        return tuple(k for k, t in self.fields.items() if isinstance(t, TextLike))

    @property
    def conversations(self) -> tuple[str, ...]:
        """The names of the fields of messages, which have tokens too."""
        return tuple(k for k, t in self.fields.items() if isinstance(t, Messages))


def _referred(
    field: RecordField,
    parameter: str,
    name: str,
    kind: type,
    fields: tuple[RecordField, ...],
) -> str:
    """The name of the field that tags or spans lie in."""
    there = [f.name for f in fields if isinstance(f.type, kind)]
    if name in there:
        return name
    if not name and len(there) == 1:
        return there[0]
    raise ValueError(
        f"data.prepare.fields: the {field.type.kind} {field.name!r} have "
        f"{parameter}={name!r}; accepted: the name of a field of kind "
        f"{kind.kind!r} ({', '.join(map(repr, there)) or 'there is none'})"  # type: ignore[attr-defined]
    )


def texts_of(kind: FieldType, value: Any) -> list[str]:
    """The texts of a field that are encoded."""
    if isinstance(kind, Words):
        return [" ".join(value)]
    return list(value) if isinstance(kind, Texts) else [value]
