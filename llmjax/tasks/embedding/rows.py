"""Records of texts that belong together as examples, and what is wrong with them."""

import collections
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llmjax.config import Number, Text, TextEmbedding, Texts, wording
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import EncodedText, RecordSource
from llmjax.tasks.embedding.vectors import Framed


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Examples {"anchor": ids, "positive": ids, "negatives": [ids, …], "score": float}.

    Attributes:
      lengths: int64 [len], tokens of a positive, cut.
      read: index -> example.
      cut: how many have a text that is longer than is read.
    """

    lengths: np.ndarray
    read: Callable[[int], dict[str, Any]]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.read(index % len(self))


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of a corpus's records that are read.

    Attributes:
      anchor, positive: of texts.
      negatives: of texts, or of lists of them.
      score: of numbers; None: pairs have none.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    score: str | None

    @classmethod
    def of(cls, corpus: Corpus, config: TextEmbedding) -> "Fields":
        """The fields that the config names.

        Raises:
          ValueError: the corpus has no such field.
        """
        fields = corpus.schema.fields
        needed: dict[str, Any] = {"anchor": Text, "positive": Text}
        if config.scored:
            needed["score"] = Number
        for name, kind in needed.items():
            field = getattr(config, f"{name}_field")
            if not isinstance(fields.get(field), kind):
                there = ", ".join(f"{k} ({t.kind})" for k, t in fields.items())
                raise ValueError(
                    f"the corpus {corpus.manifest['corpus']} has no field {field!r} of "
                    f"kind {kind.kind!r}; it has {there}: set task.{name}_field, or "
                    "data.prepare.fields"
                )
        negatives = () if config.scored else tuple(negative_fields(config, fields))
        score = config.score_field if config.scored else None
        return cls(config.anchor_field, config.positive_field, negatives, score)


def negative_fields(config: TextEmbedding, fields: Any) -> Iterator[str]:
    """The names of fields, of (name, type), that hold negatives."""
    own = {config.anchor_field, config.positive_field, config.score_field}
    for name, kind in fields.items():
        named = name.startswith(config.negatives_field) and name not in own
        if named and isinstance(kind, Text | Texts):
            yield name


@dataclasses.dataclass(frozen=True, eq=False)
class _Record:
    """The example of a record; picklable."""

    records: RecordSource
    fields: Fields
    query: Framed
    passage: Framed
    kept: np.ndarray
    max_score: float

    def __call__(self, index: int) -> dict[str, Any]:
        record, fields = self.records[int(self.kept[index])], self.fields
        positive: EncodedText = record[fields.positive]
        negatives = _texts(record[name] for name in fields.negatives)
        score = 1.0
        if fields.score is not None:
            score = float(record[fields.score]) / self.max_score
        return {
            "anchor": _encoded(self.query, record[fields.anchor]),
            "positive": _encoded(self.passage, positive),
            "negatives": [
                _encoded(self.passage, text)
                for text in negatives
                if is_negative(text.text, positive.text)
            ],
            "score": score,
        }


def _encoded(frame: Framed, text: EncodedText) -> np.ndarray:
    return frame.encoded(text.text, text.ids)


def _texts(values: Any) -> list[Any]:
    """Texts, and those of tuples of them, in one list."""
    several = (v if isinstance(v, tuple | list) else (v,) for v in values)
    return [*itertools.chain.from_iterable(several)]


def is_negative(text: str, positive: str) -> bool:
    """Whether a text may stand against a positive."""
    return bool(text.strip()) and text.strip() != positive.strip()


def of_records(
    corpus: Corpus, split: str, config: TextEmbedding, query: Framed, passage: Framed
) -> Rows:
    """The rows of a split.

    Raises:
      ValueError: the corpus has no such records, or rows that teach nothing, unless
        `config.faulty` is "drop"; it names the first one.
    """
    fields, records = Fields.of(corpus, config), corpus.records(split)
    faults, dropped = _faults(records, fields, config)
    kept = np.ones(len(records), bool)
    for reason, places in faults.items():
        if config.faulty == "refuse":
            raise ValueError(
                f"record {places[0]} of the split {split!r} {reason}"
                + (f", and {len(places) - 1:,} more do" if places[1:] else "")
                + "; mend it, or set task.faulty='drop', which leaves such out"
            )
        kept[places] = False
        rows = wording.count(len(places), "row")
        print(f"split {split!r}: {rows} left out: {reason}", file=sys.stderr)
    if dropped:
        texts = wording.count(dropped, "negative")
        print(
            f"split {split!r}: {texts} left out: empty or equal to the positive",
            file=sys.stderr,
        )
    if not kept.any():
        raise ValueError(f"the split {split!r} has no row to learn from; see its data")
    lengths = records.field_lengths(fields.positive)[kept]
    longer = records.field_lengths(fields.anchor)[kept] > query.room
    longer |= lengths > passage.room
    read = _Record(
        records, fields, query, passage, np.flatnonzero(kept), config.max_score
    )
    return Rows(np.clip(lengths, 1, passage.room), read, int(longer.sum()))


def _faults(
    records: RecordSource, fields: Fields, config: TextEmbedding
) -> tuple[dict[str, list[int]], int]:
    """Reason -> the records with that fault, and how many negatives are none.

    Raises:
      ValueError: negatives that are none, unless `config.faulty` is "drop".
    """
    faults: dict[str, list[int]] = collections.defaultdict(list)
    names = [fields.anchor, fields.positive, *fields.negatives]
    names += [fields.score] if fields.score is not None else []
    dropped = 0
    for k, values in enumerate(zip(*map(records.values, names), strict=True)):
        anchor, positive, *rest = values
        empty = [n for n, v in zip(names, values[:2], strict=False) if not v.strip()]
        if empty:
            faults[f"has an empty {empty[0]!r}"].append(k)
        elif fields.score is None and anchor.strip() == positive.strip():
            faults[f"has the same text as {names[0]!r} and {names[1]!r}"].append(k)
        elif fields.score is not None:
            if not -1 <= rest[-1] / config.max_score <= 1:
                reason = (
                    f"has a {fields.score!r} beyond task.max_score={config.max_score:g}"
                )
                faults[reason].append(k)
        else:
            wrong = [t for t in _texts(rest) if not is_negative(t, positive)]
            if wrong and config.faulty == "refuse":
                what = "an empty negative"
                if wrong[0].strip():
                    what = f"a negative that is the {names[1]!r} itself"
                faults[f"has {what}"].append(k)
            dropped += len(wrong)
    return faults, dropped if config.faulty == "drop" else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """The example of a row in memory."""

    rows: Sequence[dict[str, Any]]

    def __call__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])
