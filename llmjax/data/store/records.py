"""Typed records on disk, read at random: texts with tokens and offsets, tags, spans.

A corpus of records has an arrow file per split, and per tokenizer another one with the
tokens of its texts and the characters that each stands for.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from llmjax.config import (
    FieldType,
    Label,
    Labels,
    Messages,
    Number,
    Numbers,
    Spans,
    Tags,
    Texts,
    Words,
)
from llmjax.data.store import conversations
from llmjax.data.store.record_schema import RecordSchema, TextLike, texts_of
from llmjax.data.store.record_writing import TOKENS, open_table


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedText:
    """A text and its tokens.

    Attributes:
      text: as it was read; of words, with a space between them.
      ids: int32 [n], without special tokens.
      offsets: int32 [n, 2], the characters [start, stop) of `text` of each token.
    """

    text: str
    ids: np.ndarray
    offsets: np.ndarray

    def covering(
        self, start: int | np.integer, stop: int | np.integer
    ) -> tuple[int, int]:
        """The tokens [first, last) that have a character of [start, stop)."""
        here = (self.offsets[:, 1] > start) & (self.offsets[:, 0] < stop)
        places = np.flatnonzero(here)
        return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedWords(EncodedText):
    """Words and their tokens.

    Attributes:
      words: as they were read.
      word_ids: int32 [n], the word of each token; a space is of the word behind it.
    """

    words: tuple[str, ...]
    word_ids: np.ndarray


def word_ids_of(words: Sequence[str], offsets: np.ndarray) -> np.ndarray:
    """The word of each token of words with a space between them, int32 [n]."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    last = np.maximum(offsets[:, 1] - 1, offsets[:, 0])  # a token may be empty
    return np.searchsorted(ends, last, "right").astype(np.int32)


class RecordSource:
    """The records of a split: `len(source)`, `source[i]` -> {field: value}.

    A value is an `EncodedText`, of words `EncodedWords`, of several texts a tuple of
    `EncodedText`; tags are int32 [words], spans int32 [n, 3] (start, stop, class), a
    number is float32, several float32 [n], a label int32 and labels int32 [n]; messages
    are a list of `Marked` sequences. The
    class -1 is none.

    Pickled as the places of its files.

    Attributes:
      schema: of the records.
      lengths: int64 [len], the tokens of all texts and messages of a record.
    """

    def __init__(self, schema: RecordSchema, records: str, tokens: str):
        """Opens the files of records and of their tokens."""
        self.schema, self._files = schema, (records, tokens)
        self._records = open_table(epath.Path(records))
        self._tokens = open_table(epath.Path(tokens))
        self._classes = {
            name: {c: i for i, c in enumerate(kind.classes)}
            for name, kind in schema.fields.items()
            if isinstance(kind, Tags | Spans | Label | Labels)
        }
        names = (*schema.texts, *schema.conversations)
        sizes = [self.field_lengths(name) for name in names]
        self.lengths: np.ndarray = sum(sizes, np.zeros(len(self), np.int64))

    def field_lengths(self, name: str) -> np.ndarray:
        """The tokens of one field of each record, int64 [len]."""
        chunks = self._tokens.column(f"{name}.ids").chunks
        sizes = [chunk.value_lengths().to_numpy() for chunk in chunks]
        return np.concatenate([np.zeros(0, np.int64), *sizes])

    def same_texts(self, name: str, other: str) -> np.ndarray:
        """Whether two fields of texts are equal, of each record, bool [len]."""
        import pyarrow.compute

        equal = pyarrow.compute.equal(
            self._records.column(name), self._records.column(other)
        )
        return np.asarray(equal.to_numpy(), bool)

    def characters(self, name: str) -> np.ndarray:
        """The characters of a text of each record that are no white space at its ends,
        int64 [len]."""
        import pyarrow.compute as compute

        chunks = self._records.column(name).chunks
        sizes = [compute.utf8_length(compute.utf8_trim_whitespace(c)) for c in chunks]
        parts = [size.to_numpy().astype(np.int64) for size in sizes]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def counts(self, name: str) -> np.ndarray:
        """Spans of each record in a field of spans, int64 [len]."""
        parts = self._records.column(f"{name}.classes").chunks
        sizes = [part.value_lengths().to_numpy().astype(np.int64) for part in parts]
        return np.concatenate([np.zeros(0, np.int64), *sizes])

    def text_sizes(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Texts of each record in a field of several, and the tokens of the longest;
        int64 [len] each."""
        parts = [np.zeros((2, 0), np.int64)]
        for chunk in self._tokens.column(f"{name}.sizes").chunks:
            counts = chunk.value_lengths().to_numpy().astype(np.int64)
            sizes = np.append(chunk.flatten().to_numpy().astype(np.int64), 0)
            starts = np.cumsum(counts) - counts
            longest = np.maximum.reduceat(sizes, starts) if len(starts) else starts
            parts.append(np.stack([counts, np.where(counts > 0, longest, 0)]))
        counts, longest = np.concatenate(parts, axis=1)
        return counts, longest

    def values(self, name: str) -> Iterator[Any]:
        """The values of a field as they were read, record by record."""
        for chunk in self._records.column(name).chunks:
            yield from chunk.to_pylist()

    def sequences(self, name: str) -> conversations.Index:
        """The sequences of all records of a field of messages."""
        flat, counts = {}, {}
        for suffix in conversations.COLUMNS:
            chunks = self._tokens.column(name + suffix).chunks
            lengths = [c.value_lengths().to_numpy().astype(np.int64) for c in chunks]
            counts[suffix] = np.concatenate([np.zeros(0, np.int64), *lengths])
            if suffix != ".ids":
                parts = [c.flatten().to_numpy().astype(np.int64) for c in chunks]
                flat[suffix] = np.concatenate([np.zeros(0, np.int64), *parts])
        return conversations.Index.of(counts, flat)

    def labels(self, name: str) -> np.ndarray:
        """The class of each record in a field of labels, int64 [len]; -1: none."""
        class_ids = self._classes[name]
        values = self._records.column(name).to_pylist()
        return np.array([class_ids.get(v, -1) for v in values], np.int64)

    def label_sets(self, name: str) -> np.ndarray:
        """Whether each record has each class of a field of labels, bool [len, C]."""
        class_ids = self._classes[name]
        sets_NC = np.zeros((len(self), len(class_ids)), bool)
        for k, names in enumerate(self._records.column(name).to_pylist()):
            sets_NC[k, [class_ids[n] for n in names]] = True
        return sets_NC

    def numbers(self, name: str) -> list[list[float]]:
        """The numbers of each record in a field of one number or several."""
        values = self._records.column(name).to_pylist()
        return [v if isinstance(v, list) else [v] for v in values]

    def word_counts(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Words of each record in a field of words, and how many of these have no
        token; int64 [len] each."""
        import pyarrow.compute

        parts = [np.zeros((2, 0), np.int64)]
        columns = self._records.column(name), self._tokens.column(f"{name}.offsets")
        for texts, offsets in zip(*(c.chunks for c in columns), strict=True):
            counts = texts.value_lengths().to_numpy()
            sizes = pyarrow.compute.utf8_length(texts.flatten()).to_numpy() + 1
            ends = np.cumsum(sizes) - 1  # of the words of all records end to end
            bounds = np.cumsum([0, *counts])
            starts = np.append(0, ends + 1)[bounds[:-1]]
            places = offsets.flatten().to_numpy().reshape(-1, 2)
            last = np.maximum(places[:, 1] - 1, places[:, 0])
            last = last + np.repeat(starts, offsets.value_lengths().to_numpy() // 2)
            tokens = np.bincount(np.searchsorted(ends, last, "right"), None, len(ends))
            total = np.append(0, np.cumsum(tokens == 0))[bounds]
            parts.append(np.stack([counts, np.diff(total)]))
        counts, without = np.concatenate(parts, axis=1)
        return counts, without

    def classes(self, name: str) -> np.ndarray:
        """The class of each word of all records, int32, with -1 behind each record."""
        class_ids, parts = self._classes[name], [np.zeros(0, np.int32)]
        for chunk in self._records.column(name).chunks:
            values = chunk.flatten().dictionary_encode()
            known = [class_ids.get(v, -1) for v in values.dictionary.to_pylist()]
            codes = values.indices.fill_null(len(known)).to_numpy()
            numbers = np.array([*known, -1], np.int32)[codes]
            ends = np.cumsum(chunk.value_lengths().to_numpy())
            parts.append(np.insert(numbers, ends, -1))
        return np.concatenate(parts)

    def __len__(self) -> int:
        return self._records.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        return {
            name: self._value(name, kind, index)
            for name, kind in self.schema.fields.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordSource, (self.schema, *self._files)

    def _value(self, name: str, kind: FieldType, index: int) -> Any:
        value = self._records.column(name)[index].as_py()
        if isinstance(kind, TextLike):
            return self._encoded(name, kind, value, index)
        if isinstance(kind, Messages):
            columns = conversations.COLUMNS
            return conversations.sequences(
                *(self._integers(name + k, index) for k in columns)
            )
        if isinstance(kind, Number):
            return np.float32(value)
        if isinstance(kind, Numbers):
            return np.array(value, np.float32)
        class_ids = self._classes[name]
        if isinstance(kind, Label):
            return np.int32(class_ids.get(value, -1))
        if isinstance(kind, Tags | Labels):
            return np.array([class_ids.get(v, -1) for v in value], np.int32)
        classes = self._records.column(f"{name}.classes")[index].as_py()
        spans = np.array(value, np.int32).reshape(-1, 2)
        numbers = np.array([class_ids.get(v, -1) for v in classes], np.int32)
        return np.concatenate([spans, numbers[:, None]], axis=1)

    def _encoded(self, name: str, kind: FieldType, value: Any, index: int) -> Any:
        ids, offsets, sizes = (self._integers(name + k, index) for k in TOKENS)
        offsets = offsets.reshape(-1, 2)
        if isinstance(kind, Words):
            word_ids = word_ids_of(value, offsets)
            words = tuple(value)
            return EncodedWords(" ".join(value), ids, offsets, words, word_ids)
        stops = np.cumsum(sizes)
        encoded = tuple(
            EncodedText(text, ids[a:b], offsets[a:b])
            for text, a, b in zip(
                texts_of(kind, value), stops - sizes, stops, strict=True
            )
        )
        return encoded if isinstance(kind, Texts) else encoded[0]

    def _integers(self, column: str, index: int) -> np.ndarray:
        values = self._tokens.column(column)[index].values
        return np.array(values, np.int32)
