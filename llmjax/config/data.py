"""Sources of examples, and their way to the global batch."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from llmjax.config.checks import (
    BelowOne,
    Natural,
    NotNegative,
    Positive,
    Range,
    Seed,
    Size,
    checked,
    require,
)

# --- tokenizers ----------------------------------------------------------------------


@checked
class BPE:
    """Byte-level byte pairs, trained (Sennrich et al. 2016; Radford et al. 2019)."""

    kind: ClassVar[str] = "bpe"
    vocab_size: Size = 8192


@checked
class WordPiece:
    """BERT's: words cut greedily into pieces, trained (Schuster & Nakajima 2012)."""

    kind: ClassVar[str] = "wordpiece"
    vocab_size: Size = 8192
    lowercase: bool = True


@checked
class Unigram:
    """SentencePiece's unigram model with byte fallback, trained (Kudo 2018)."""

    kind: ClassVar[str] = "unigram"
    vocab_size: Size = 8192


@checked
class Bytes:
    """Each byte a token (ByT5, Xue et al. 2022); nothing to train."""

    kind: ClassVar[str] = "byte"


@checked
class TokenizerFile:
    """A `tokenizer.json` or its folder, a SentencePiece `.model`, tiktoken ranks.

    `pattern`: how tiktoken ranks split a text, a regular expression; "": as the file's
    name says.
    """

    kind: ClassVar[str] = "file"
    path: str = ""
    pattern: str = ""

    def __post_init__(self):
        require(bool(self.path), "path is empty; give a tokenizer's file or folder")


TokenizerConfig = BPE | WordPiece | Unigram | Bytes | TokenizerFile

# --- records -------------------------------------------------------------------------


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
    ("end" for "stop"), or SQuAD's `{"text": [...], "answer_start": [...]}`.
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


# --- preparing -----------------------------------------------------------------------

CleaningStep = Literal[
    "mojibake",
    "windows_1252",
    "ligatures",
    "width",
    "quotes",
    "line_breaks",
    "escapes",
    "controls",
    "nfc",
    "spaces",
    "blank_lines",
]


@checked
class PrepareConfig:
    """The way of local files to clean documents. A TFDS dataset is taken as it is.

    Attributes:
      fields: records instead of documents, local or of TFDS, taken as they are: of the
        others below only `validation` and `test` are read.
      text, label: the fields that hold them; label "" for none. The values of a label
        are the classes; of a dataset that names its classes, their numbers or -1.
        Texts with labels are taken as they are, where the fields below don't say
        otherwise.
      split: the field that says "train", "validation" or "test"; "": none; None:
        "split", where the files have it and their own names say no split.
      cleaning: what is changed in a text, in the order of this list; (): nothing;
        None: of texts without labels wrong encoding is mended ("mojibake"). Texts that
        are predicted are cleaned as those that were learned from; prompts never: where
        more steps are named, pass them through `llmjax.data.cleaning.steps.clean`.
        "mojibake": UTF-8 that was read as another encoding ("schÃ¶n") is read again.
        "windows_1252": U+0080 to U+009F become the characters that Windows has there.
        "ligatures": "fi" for U+FB01 and its like. "width": usual letters, digits and
        punctuation for wide ones (U+FF01…). "quotes": straight for curly ones.
        "line_breaks": U+000A for CR LF, CR, U+0085, U+2028 and U+2029.
        "escapes": no colours of terminals. "controls": no control characters besides
        tabs and line breaks. "nfc": Unicode's composed form.
        "spaces": plain for no-break ones, and none at the ends of lines.
        "blank_lines": one at most at a place, and none at the ends of a text.
      min_characters: shorter documents are dropped; None: than 80, of texts with
        labels none.
      language: keep only documents in it (ISO 639-1, "en"); None: all.
      quality: "gopher": the rules of Rae et al. 2021, A1.1.
      exact_duplicates: drop copies; None: of texts without labels.
      near_duplicates: drop near copies (MinHash), split by their clusters; None: of
        texts without labels.
      validation, test: shares held out, where the files have no such split: of a
        single large .txt its tail, else by hashes.
      shards: files per split; None: by size.
      workers: processes; None: one per core.
    """

    fields: tuple[RecordField, ...] = ()
    text: str = "text"
    label: str = ""
    split: str | None = None
    cleaning: tuple[CleaningStep, ...] | None = None
    min_characters: Natural | None = None
    language: str | None = None
    quality: Literal["none", "gopher"] = "none"
    exact_duplicates: bool | None = None
    near_duplicates: bool | None = None
    validation: BelowOne = 0.06
    test: BelowOne = 0.06
    shards: Annotated[int, Range(1, 99_999)] | None = None
    workers: Annotated[int, Range(1, 4096)] | None = None

    def __post_init__(self):
        require(
            self.validation + self.test < 1,
            f"validation={self.validation} and test={self.test} leave nothing to train",
        )
        names = [field.name for field in self.fields]
        require(
            len(set(names)) == len(names),
            f"fields have the names {', '.join(names)}; each must have its own",
        )

    def resolved(self) -> "PrepareConfig":
        """The same with every None said that depends on whether there are labels."""
        labelled = bool(self.label)
        usual: dict[str, Any] = {
            "cleaning": () if labelled else ("mojibake",),
            "min_characters": 0 if labelled else 80,
            "exact_duplicates": not labelled,
            "near_duplicates": not labelled,
        }
        unsaid = {k: v for k, v in usual.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **unsaid)


# --- mixing --------------------------------------------------------------------------


@checked
class MixturePart:
    """One source of several.

    Attributes:
      source: see `data.source`.
      weight: its share of the rows, times the others'; read by kind "explicit".
      max_epochs: how often it may be seen; None: without end.
    """

    source: str = "python_docs"
    weight: NotNegative = 1.0
    max_epochs: Positive | None = None


@checked
class Explicit:
    """Weights from the config."""

    kind: ClassVar[str] = "explicit"


@checked
class Proportional:
    """Weights in proportion to the rows of a source."""

    kind: ClassVar[str] = "proportional"


@checked
class Temperature:
    """Weights rows ** (1 / temperature) (Arivazhagan et al. 2019; mT5: 1 / 0.3)."""

    kind: ClassVar[str] = "temperature"
    temperature: Positive = 2.0


@checked
class Stage:
    """A value from update `step` on."""

    step: Natural = 0
    value: Size = 1


# --- all of it -----------------------------------------------------------------------


@checked
class DataConfig:
    """Sources of examples, and their way to the global batch.

    Attributes:
      source: "python_docs", "tfds:NAME", a file or a folder; see `prepare`.
      mixture: several sources instead, by `weighting`; one tokenizer for all, trained
        on the first.
      batch_size: rows of one optimizer update, over all devices.
      seq_len: tokens of a row; of an encoder-decoder, of the decoder's row.
      encoder_seq_len: tokens of the encoder's row; None: `seq_len`.
      packing: "concat": documents end to end, cut into rows, segments apart;
        "first_fit": whole documents fitted into rows, segments apart; "chunk": cut
        into texts of a row's length across documents, one a row; "pad": a document a
        row.
      window: documents among which first-fit chooses.
      max_segments: the most documents that first-fit puts into a row; None: as many as
        fit. Labels of packed rows are `[B, max_segments]`; None: as many as the
        shortest documents of the source allow.
      batch_sizes: a ramp: from each stage's step on its batch size, at last
        `batch_size`; () for always `batch_size`.
      seq_lens: a curriculum, at last `seq_len`: each row is cut into several, the
        tokens of a batch and their order stay (packings "concat" and "first_fit").
      prefetch: batches computed ahead; `prefetch_processes` 0: in threads.
    """

    source: str = "python_docs"
    mixture: tuple[MixturePart, ...] = ()
    weighting: Explicit | Proportional | Temperature = Explicit()
    directory: str = "~/.cache/llmjax"
    tokenizer: TokenizerConfig = BPE()
    prepare: PrepareConfig = PrepareConfig()
    train_split: str = "train"
    eval_split: str = "validation"
    batch_size: Size = 16
    seq_len: Size = 256
    encoder_seq_len: Size | None = None
    packing: Literal["concat", "first_fit", "chunk", "pad"] = "concat"
    window: Size = 8192
    max_segments: Size | None = None
    batch_sizes: tuple[Stage, ...] = ()
    seq_lens: tuple[Stage, ...] = ()
    shuffle_seed: Seed = 0
    prefetch: Natural = 4
    prefetch_processes: Natural = 0

    def __post_init__(self):
        for name in ("batch_sizes", "seq_lens"):
            steps = [stage.step for stage in getattr(self, name)]
            require(
                steps == sorted(set(steps)) and steps[:1] in ([], [0]),
                f"the steps of {name} are {steps}; they must rise from 0",
            )
            last = getattr(self, name[:-1])
            values = [stage.value for stage in getattr(self, name)]
            require(
                values[-1:] in ([], [last]),
                f"{name} ends with {values[-1:]}; it must end with {name[:-1]}={last}",
            )
        for stage in self.seq_lens:
            require(
                self.seq_len % stage.value == 0,
                f"seq_lens has {stage.value}, which does not divide "
                f"seq_len={self.seq_len}",
            )
        require(
            not self.seq_lens or self.packing in ("concat", "first_fit"),
            f"seq_lens needs packing 'concat' or 'first_fit', not {self.packing!r}",
        )
        require(
            self.max_segments is None or self.packing == "first_fit",
            f"max_segments={self.max_segments} is read by packing 'first_fit' alone, "
            f"not {self.packing!r}; remove it or change data.packing",
        )
        total = sum(part.weight for part in self.mixture)
        require(
            not self.mixture or total > 0,
            f"the weights of data.mixture sum to {total}; give at least one source a "
            "weight above 0",
        )
