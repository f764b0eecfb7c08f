"""Config of records: the types of their fields, and where each is read."""

from typing import ClassVar, Literal

from llmjax.config.checks import checked, require


@checked
class Text:
    """A text."""

    kind: ClassVar[str] = "text"


@checked
class Words:
    """A text cut into words: a list, or a string with a space between them."""

    kind: ClassVar[str] = "words"


@checked
class Tags:
    """A class for each word of the field `words`; "": of the only field of words.

    `classes`: their names; (): those of the dataset, or all that occur.
    """

    kind: ClassVar[str] = "tags"
    words: str = ""
    classes: tuple[str, ...] = ()


@checked
class Spans:
    """Characters [start, stop) of the field `text`, each with a class or without.

    A list of `[start, stop]`, `[start, stop, class]` or `{"start", "stop", "label"}`
    ("end" for "stop"), or one of these alone, or SQuAD's `{"text": [...],
    "answer_start": [...]}`.
    `text`, `classes`: see `Tags`.
    """

    kind: ClassVar[str] = "spans"
    text: str = ""
    classes: tuple[str, ...] = ()


@checked
class Number:
    """A number, such as a score."""

    kind: ClassVar[str] = "number"


@checked
class Numbers:
    """Several numbers: a list, or of `columns` one each, in that order."""

    kind: ClassVar[str] = "numbers"
    columns: tuple[str, ...] = ()


@checked
class Texts:
    """A list of texts: choices, passages, references."""

    kind: ClassVar[str] = "texts"


@checked
class Label:
    """A class, by its name or number; nothing (null, "") for none.

    -1 is none where the classes have names and it is not one of them. `classes`: see
    `Tags`.
    """

    kind: ClassVar[str] = "label"
    classes: tuple[str, ...] = ()


@checked
class Labels:
    """Any number of classes, by their names or numbers.

    A list, or in a table's cell JSON, or names with `separator` between them; or, of
    `columns`, whose names are then the classes', 0 or 1 in each. [] or "" for none of
    them. `classes`: see `Tags`.
    """

    kind: ClassVar[str] = "labels"
    columns: tuple[str, ...] = ()
    separator: str = ";"
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        require(
            not self.columns or self.classes in ((), self.columns),
            f"columns has {', '.join(self.columns)} and classes "
            f"{', '.join(self.classes)}; the columns name the classes: leave classes "
            "out",
        )


@checked
class FramedText(Text):
    """A text that is encoded with `prefix` before and `suffix` behind it."""

    kind: ClassVar[str] = "framed_text"
    prefix: str = ""
    suffix: str = ""


@checked
class Messages:
    """A conversation, encoded by the chat template with the answers marked.

    A list of `{"role", "content"}`, or of ShareGPT's `{"from", "value"}`; or a text: a
    message of the user.

    Attributes:
      answer: column of what follows, where that stands apart: a text of the assistant,
        or messages; "": none.
      tools: column of a list of functions' JSON schemas, or null; "": none.
      roles: of the messages that the model writes.
      template: name of the chat template; "": the one that fits.
      thinking: the template's variable `enable_thinking`; None: unsaid.
      faulty: conversations without an answer, or that the template refuses: an error
        that counts them, or left out and counted.
    """

    kind: ClassVar[str] = "messages"
    answer: str = ""
    tools: str = ""
    roles: tuple[str, ...] = ("assistant",)
    template: str = ""
    thinking: bool | None = None
    faulty: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self):
        require(len(self.roles) > 0, "roles is empty; name at least one: 'assistant'")


FieldType = (
    Text
    | Words
    | Tags
    | Spans
    | Number
    | Numbers
    | Texts
    | Label
    | Labels
    | FramedText
    | Messages
)


@checked
class RecordField:
    """A field of records.

    Attributes:
      name: of the field, an identifier.
      column: of the file, or the feature of the TFDS dataset; "": as `name`.
      type: of its values; one that has `columns` is read from those.
    """

    name: str = "text"
    column: str = ""
    type: FieldType = Text()

    def __post_init__(self):
        require(
            self.name.isidentifier(),
            f"the field's name {self.name!r} is no identifier, such as 'question'",
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that it is read from, its own first."""
        kind = self.type
        if several := getattr(kind, "columns", ()):
            return several
        others = (kind.answer, kind.tools) if isinstance(kind, Messages) else ()
        return (self.column or self.name, *(name for name in others if name))
