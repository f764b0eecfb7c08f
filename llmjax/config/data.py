"""Sources of examples, and their way to the global batch."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from llmjax.config.augment import Augmentation
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
from llmjax.config.records import RecordField

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


@checked
class Items:
    """A token for each class of a field of records, such as the items of a shop."""

    kind: ClassVar[str] = "items"
    field: str = "item"


TokenizerConfig = BPE | WordPiece | Unigram | Bytes | TokenizerFile | Items

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
      augment: changes of the texts of training.
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
    augment: Augmentation = Augmentation()
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
