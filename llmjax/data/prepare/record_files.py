"""Typed records of local files and TFDS datasets, and the tokens of their texts.

`<directory>/records/<corpus>/<split>.arrow` has the records as they were read, and
`<tokens folder>/records/<split>.arrow` the tokens of their texts. Each file appears
whole or not at all, and is not written again while it is what it would become.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from llmjax.config import (
    DataConfig,
    Label,
    Labels,
    PrepareConfig,
    RecordField,
    Spans,
    Tags,
)
from llmjax.data.cleaning import choice
from llmjax.data.files import (
    finding,
    readers,
    reading_tables,
    splits,
    typed_values,
)
from llmjax.data.files.slices import FileSlice, Row, require_columns
from llmjax.data.prepare import encoding, selecting
from llmjax.data.prepare.local_files import resolved
from llmjax.data.prepare.selecting import natural
from llmjax.data.store import manifest, record_writing
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.tokenizers.tokenizer import Tokenizer

FORMAT = 3  # raise it when the same files become different records
_BATCH = 1024  # records that are written together

SplitRows = Iterator[tuple[str, Row]]  # the row's own split, "" for none


@dataclasses.dataclass(frozen=True)
class RecordInput:
    """Rows to make records of.

    Attributes:
      rows: each after its own split.
      own_splits: whether these are the corpus's splits; else records are divided.
      held_out: splits that are taken from those of "train", as the files have none.
      classes: the names of the classes of a column; () where it has none.
    """

    rows: Callable[[], SplitRows]
    own_splits: bool
    classes: Callable[[str], tuple[str, ...]]
    held_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """The records of a corpus on disk.

    Attributes:
      folder: of the files.
      account: schema, content_sha256, documents (split -> how many) and files.
    """

    folder: epath.Path
    account: dict[str, Any]

    @property
    def schema(self) -> RecordSchema:
        return RecordSchema.from_json(self.account["schema"])

    def texts(self, split: str) -> Iterable[str]:
        """Every text of a split's records."""
        return record_writing.RecordTexts(self.folder / f"{split}.arrow", self.schema)


def local_input(source: str, prepare: PrepareConfig) -> RecordInput:
    """The rows of the files at a path."""
    columns = {column: _key(f) for f in prepare.fields for column in f.columns}
    listing = with_tags(finding.find(source), prepare)
    column = resolved(listing, prepare).split or ""
    if column:
        columns.setdefault(column, "data.prepare.split")

    def rows() -> SplitRows:
        for file_slice in listing.slices:
            for row in readers.rows(file_slice, columns):
                split = file_slice.split
                if column:
                    split = splits.of_row(row.values[column], row.where, column)
                yield split, row

    own = bool(column) or (len(listing.splits) > 1 and "" not in listing.splits)
    # of a column, all of them are taken to be there
    held_out = () if column or not own else selecting.held_out(listing.splits, prepare)
    return RecordInput(
        rows, own, lambda c: finding.find(source, c).class_names, held_out
    )


def with_tags(listing: finding.Listing, prepare: PrepareConfig) -> finding.Listing:
    """A listing whose .txt files are CoNLL's, where tags are read: a text has none."""
    if not any(isinstance(field.type, Tags) for field in prepare.fields):
        return listing
    slices: list[FileSlice] = []
    for each in listing.slices:
        if each.format in ("txt", "passages"):
            slices += [
                dataclasses.replace(each, files=(file,), format="conll")
                for file in each.files
            ]
        else:
            slices.append(each)
    return dataclasses.replace(listing, slices=tuple(slices))


def tfds_input(builder: Any, fields: Iterable[RecordField]) -> RecordInput:
    """The rows of a TFDS dataset that is prepared."""
    columns = {column: _key(f) for f in fields for column in f.columns}
    features, metadata = builder.info.features, builder.info.metadata or {}
    require_columns(f"the dataset {builder.info.full_name}", columns, features)

    def rows() -> SplitRows:
        for split in builder.info.splits:
            data = builder.as_data_source(split)
            for k in range(len(data)):
                example = data[k]
                place = f"{builder.info.full_name}, split {split!r}, record {k}"
                values = {c: reading_tables.decoded(example[c], place) for c in columns}
                if "class_names" in metadata and values.get("label") == -1:
                    values["label"] = None  # in our own builders' datasets
                yield split, Row(values, place.__str__)

    def classes(column: str) -> tuple[str, ...]:
        names = reading_tables.feature_classes(features[column])
        if column == "label" and not names:  # of our own builders
            names = tuple(metadata.get("class_names", ()))
        return names

    return RecordInput(rows, True, classes)


def _key(field: RecordField) -> str:
    return f"the column of the field {field.name!r} of data.prepare.fields"


def prepare(
    name: str,
    data: DataConfig,
    make_input: Callable[[], RecordInput],
    timed: Callable[[str], contextlib.AbstractContextManager[None]],
) -> RecordFiles:
    """Writes the records of a corpus, unless they are there.

    Args:
      name: of the corpus.
      data: `directory` and `prepare` are read.
      make_input: called where they are not there.
      timed: measures the stage.

    Raises:
      ValueError: a row doesn't have the fields; says where.
    """
    folder = epath.Path(data.directory).expanduser() / "records" / name
    account = manifest.read_json(folder / "metadata.json")
    if account.get("format") != FORMAT:
        folder.mkdir(parents=True, exist_ok=True)
        with timed("records"):
            account = _write(folder, make_input(), data)
            manifest.write_json(folder / "metadata.json", account)
    return RecordFiles(folder, account)


def _write(folder: epath.Path, source: RecordInput, data: DataConfig) -> dict[str, Any]:
    """Writes the files of all splits, and gives the account of them."""
    fields = data.prepare.fields
    schema = RecordSchema.of(fields)
    labelled = [f for f in fields if isinstance(f.type, Label | Labels | Tags | Spans)]
    classes = {
        f.name: _own_classes(f) or source.classes(f.columns[0]) for f in labelled
    }
    schema = schema.with_classes(classes)
    collected: dict[str, set[str]] = {k: set() for k, c in classes.items() if not c}
    documents: dict[str, int] = {}
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        writers: dict[str, record_writing.RecordWriter] = {}
        for split, batch in _batches(source, fields, schema, data):
            if split not in writers:
                path = folder / f"{split}.arrow"
                writers[split] = record_writing.RecordWriter(
                    path, record_writing.record_columns(schema)
                )
                stack.callback(writers[split].abandon)
            columns = record_writing.columns_of(schema, batch)
            for name, names in collected.items():
                names.update(_class_names(columns, name))
            digest.update(json.dumps([split, columns], sort_keys=True).encode())
            documents[split] = documents.get(split, 0) + len(batch)
            writers[split].write(columns)
        files = {f"{split}.arrow": w.close() for split, w in writers.items()}
    schema = schema.with_classes(
        {name: tuple(sorted(names, key=natural)) for name, names in collected.items()}
    )
    digest.update(json.dumps(schema.to_json()).encode())
    return {
        "format": FORMAT,
        "content_sha256": digest.hexdigest(),
        "schema": schema.to_json(),
        "class_names": [],
        "documents": documents,
        "files": files,
    }


def _own_classes(field: RecordField) -> tuple[str, ...]:
    """The names of a field's classes, where its type says them."""
    own: Any = field.type
    return own.classes or getattr(own, "columns", ())


def _class_names(columns: dict[str, Any], name: str) -> set[str]:
    """The names of classes that occur in some records."""
    values = columns.get(f"{name}.classes", columns[name])
    flat = (c for v in values for c in (v if isinstance(v, list) else [v]))
    return {c for c in flat if c is not None}


def _batches(
    source: RecordInput,
    fields: tuple[RecordField, ...],
    schema: RecordSchema,
    data: DataConfig,
) -> Iterator[tuple[str, list[typed_values.Record]]]:
    """Records of one split, some at a time, in the order of the rows."""
    open_batches: dict[str, list[typed_values.Record]] = {}
    with tqdm(source.rows(), "records", unit=" records") as rows:
        for split, row in rows:
            record = typed_values.record(row, fields, schema)
            if not source.own_splits:
                split = _split(record, data.prepare)
            elif split == "train" and source.held_out:
                split = _split(record, choice.only(data.prepare, source.held_out))
            batch = open_batches.setdefault(split, [])
            batch.append(record)
            if len(batch) == _BATCH:
                yield split, open_batches.pop(split)
    yield from open_batches.items()


def _split(record: typed_values.Record, prepare: PrepareConfig) -> str:
    """The split of a record, by a hash of its values: equal ones stay together."""
    text = json.dumps(record, sort_keys=True)
    numbers = choice.divide(choice.hashes_of([text]), np.zeros(1, bool), prepare)
    return choice.split_names(prepare)[int(numbers[0])]


# --- tokens --------------------------------------------------------------------------


def key(files: RecordFiles, tokenizer: Tokenizer) -> str:
    """Identity of the tokens: a function of the records and the tokenizer, and where
    there are messages of its chat templates."""
    fingerprint = tokenizer.fingerprint
    if files.schema.conversations:
        fingerprint += json.dumps(dict(tokenizer.chat_templates), sort_keys=True)
    return encoding.key(files.account["content_sha256"], fingerprint)


def write_tokens(
    folder: epath.Path, files: RecordFiles, tokenizer: Tokenizer
) -> dict[str, dict[str, Any]]:
    """Writes what is missing of the tokens of every split.

    Returns:
      "records/<split>.arrow" -> bytes and sha256.
    """
    place = folder / "records"
    place.mkdir(parents=True, exist_ok=True)
    account = manifest.read_json(place / "account.json")
    if account.get("key") != key(files, tokenizer):
        account = {"key": key(files, tokenizer), "files": {}}
    with tqdm(files.account["documents"], "tokens") as splits:
        for split in splits:
            name = f"{split}.arrow"
            if name not in account["files"] or not (place / name).exists():
                account["files"][name] = record_writing.write_tokens(
                    place / name, files.folder / name, files.schema, tokenizer
                )
                manifest.write_json(place / "account.json", account)
    return {f"records/{name}": file for name, file in account["files"].items()}
