"""Records written to arrow files, and the tokens of their texts beside them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from etils import epath

from llmjax.config import (
    FieldType,
    FramedText,
    Label,
    Labels,
    Messages,
    Number,
    Numbers,
    Spans,
    Tags,
    Text,
    Texts,
    Words,
)
from llmjax.data.store import conversations, manifest
from llmjax.data.store.record_schema import RecordSchema, texts_of
from llmjax.data.tokenizers.tokenizer import Tokenizer

TOKENS = (".ids", ".offsets", ".sizes")  # columns of a text's tokens


class RecordWriter:
    """Writes an arrow file of records, or of tokens, whole or not at all."""

    def __init__(self, path: epath.Path, columns: Any):
        """`columns`: a schema of arrow."""
        import pyarrow as pa

        self._path, self._partial = path, manifest.partial(path)
        self._file = self._partial.open("wb")
        self._writer = pa.ipc.new_file(self._file, columns)
        self._columns = columns

    def write(self, columns: Mapping[str, list[Any]]) -> None:
        """Writes some records, a list per column."""
        import pyarrow as pa

        self._writer.write(pa.record_batch(dict(columns), schema=self._columns))

    def abandon(self) -> None:
        """Removes a file that was not closed."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def close(self) -> dict[str, Any]:
        """Moves the file to its place and gives its bytes and sha256."""
        self._writer.close()
        self._file.close()
        size = self._partial.stat().length
        digest = manifest.sha256(self._partial)
        self._partial.replace(self._path)
        return {"bytes": size, "sha256": digest}


def record_columns(schema: RecordSchema) -> Any:
    """The arrow schema of a file of records."""
    import pyarrow as pa

    strings, integers = pa.list_(pa.large_string()), pa.list_(pa.int32())
    columns: dict[type, dict[str, Any]] = {
        Text: {"": pa.large_string()},
        Words: {"": strings},
        Tags: {"": strings},
        Spans: {"": integers, ".classes": strings},  # start, stop, start, stop, …
        Number: {"": pa.float64()},
        Numbers: {"": pa.list_(pa.float64())},
        Texts: {"": strings},
        Label: {"": pa.string()},
        Labels: {"": strings},
        FramedText: {"": pa.large_string()},
        Messages: {"": pa.large_string()},  # as JSON
    }
    return pa.schema(
        [
            (name + suffix, dtype)
            for name, kind in schema.fields.items()
            for suffix, dtype in columns[type(kind)].items()
        ]
    )


def columns_of(schema: RecordSchema, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Records as columns. Spans are (start, stop, class name); classes are names."""
    columns: dict[str, Any] = {}
    for name, kind in schema.fields.items():
        values = [record[name] for record in records]
        if isinstance(kind, Spans):
            columns[name] = [[c for span in v for c in span[:2]] for v in values]
            columns[f"{name}.classes"] = [[span[2] for span in v] for v in values]
        else:
            columns[name] = values
    return columns


def write_tokens(
    path: epath.Path, records: epath.Path, schema: RecordSchema, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Encodes the texts of a file of records; gives the new file's bytes and sha256."""
    import pyarrow as pa

    encoders = _encoders(schema, tokenizer, records.stem)
    names = [name + suffix for name, e in encoders.items() for suffix in e.columns]
    columns = pa.schema([(name, pa.list_(pa.int32())) for name in names])
    writer = RecordWriter(path, columns)
    try:
        for batch in open_table(records).to_batches():
            arrays: dict[str, list[Any]] = {name: [] for name in names}
            for name, encoder in encoders.items():
                for value in batch.column(name).to_pylist():
                    row = encoder(value)
                    for suffix, array in zip(encoder.columns, row, strict=True):
                        arrays[name + suffix].append(array)
            writer.write(arrays)
        for encoder in encoders.values():
            encoder.finish()
    except BaseException:
        writer.abandon()
        raise
    return writer.close()


def _encoders(schema: RecordSchema, tokenizer: Tokenizer, split: str) -> dict[str, Any]:
    """Field -> what makes the columns of its tokens."""
    encoders: dict[str, Any] = {
        name: _TextEncoder(schema.fields[name], tokenizer) for name in schema.texts
    }
    for name in schema.conversations:
        kind: Any = schema.fields[name]
        where = f"split {split!r}, field {name!r} of data.prepare.fields"
        encoders[name] = conversations.Encoder(tokenizer, kind, where)
    return encoders


@dataclasses.dataclass(frozen=True)
class _TextEncoder:
    """The columns of a field of texts."""

    kind: FieldType
    tokenizer: Tokenizer
    columns: ClassVar[tuple[str, ...]] = TOKENS

    def __call__(self, value: Any) -> tuple[Any, ...]:
        encoded = [self._encode(text) for text in texts_of(self.kind, value)]
        return (
            _joined([ids for ids, _ in encoded]),
            _joined([offsets.reshape(-1) for _, offsets in encoded]),
            [len(ids) for ids, _ in encoded],
        )

    def _encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(self.kind, FramedText):
            return self.tokenizer.encode_with_offsets(text)
        before, behind = self.kind.prefix, self.kind.suffix
        ids, offsets = self.tokenizer.encode_with_offsets(before + text + behind)
        return ids, np.clip(offsets - len(before), 0, len(text))

    def finish(self) -> None:
        """Nothing is counted."""


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *arrays]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class RecordTexts:
    """Every text of a file of records; can be iterated again and again."""

    path: epath.Path
    schema: RecordSchema

    def __len__(self) -> int:
        table, fields = open_table(self.path), self.schema.fields
        several = [k for k, kind in fields.items() if isinstance(kind, Texts)]
        sizes = (
            chunk.value_lengths() for k in several for chunk in table.column(k).chunks
        )
        single = len(self.schema.texts) - len(several)
        said = (
            len(conversations.contents(text))
            for name in self.schema.conversations
            for text in table.column(name).to_pylist()
        )
        lists = sum(int(s.to_numpy().sum()) for s in sizes)
        return single * table.num_rows + lists + sum(said)

    def __iter__(self) -> Iterator[str]:
        for batch in open_table(self.path).to_batches():
            for name in self.schema.texts:
                for value in batch.column(name).to_pylist():
                    yield from texts_of(self.schema.fields[name], value)
            for name in self.schema.conversations:
                for value in batch.column(name).to_pylist():
                    yield from conversations.contents(value)


def open_table(path: epath.Path) -> Any:
    """The table of an arrow file, mapped where it is local."""
    import pyarrow as pa

    local = "://" not in str(path)
    source = pa.memory_map(str(path)) if local else pa.BufferReader(path.read_bytes())
    return pa.ipc.open_file(source).read_all()
