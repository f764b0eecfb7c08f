"""Binary files as records: .parquet, .arrow, .array_record."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from llmjax.data.files.parts import (
    BLOCK,
    Part,
    Record,
    damaged,
    evenly,
    label_name,
    no_field,
    no_text,
)

# --- parquet and arrow ---------------------------------------------------------------


def row_groups(file: pathlib.Path) -> int:
    """How many a .parquet has.

    Raises:
      ValueError: it is none.
    """
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file).num_row_groups
    except pyarrow.ArrowInvalid as e:
        raise damaged(file, "parquet", e) from None


def table(part: Part, text: str, label: str) -> Iterator[Record]:
    """The records of a part of a .parquet or an .arrow.

    Raises:
      ValueError: it has no such field, or is damaged.
    """
    import pyarrow.parquet

    file = part.files[0]
    fields = [field for field in (text, label) if field]
    try:
        if part.format == "parquet":
            opened = pyarrow.parquet.ParquetFile(file)
            _require_columns(file, opened.schema_arrow, text, label)
            groups = range(part.start, min(part.stop, opened.num_row_groups))
            batches = opened.iter_batches(BLOCK, list(groups), fields)
        else:
            schema, every = _arrow_batches(file)
            _require_columns(file, schema, text, label)
            batches = (
                batch.select(fields)
                for k, batch in enumerate(every)
                if part.start <= k < part.stop
            )
        for batch in batches:
            labels = batch.column(label).to_pylist() if label else [None] * len(batch)
            texts = batch.column(text).to_pylist()
            for value, name in zip(texts, labels, strict=True):
                yield value or "", label_name(name)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise damaged(file, part.format, e) from None


def _require_columns(file: str, schema: Any, text: str, label: str) -> None:
    for field in (text, label):
        if field and field not in schema.names:
            raise no_field(file, field, field == text, schema.names)
    kind = str(schema.field(text).type)
    if kind not in ("string", "large_string"):
        raise no_text(file, text, kind)


def _arrow_batches(file: str) -> tuple[Any, Iterator[Any]]:
    """The schema and the record batches of an arrow stream or file, mapped."""
    import pyarrow

    mapped = pyarrow.memory_map(file)
    try:
        stream = pyarrow.ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    except pyarrow.ArrowInvalid:
        whole = pyarrow.ipc.open_file(mapped)
        batches = (whole.get_batch(k) for k in range(whole.num_record_batches))
        return whole.schema, batches


def saved_to_disk(
    folder: pathlib.Path, label: str
) -> tuple[tuple[pathlib.Path, ...], tuple[Part, ...], tuple[str, ...]]:
    """A Hugging Face dataset (`save_to_disk`), or a dictionary of them by split.

    Returns:
      Files, parts, and the names of the classes, where `label` has them.

    Raises:
      ValueError: a file is damaged.
    """
    import pyarrow

    folders = {"": folder}
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        folders = {split: folder / split for split in splits}
    files: list[pathlib.Path] = []
    parts: list[Part] = []
    names: tuple[str, ...] = ()
    for split, place in folders.items():
        names = _hf_class_names(place, label) or names
        state = json.loads((place / "state.json").read_text())
        for entry in state["_data_files"]:
            file = place / entry["filename"]
            size = file.stat().st_size
            try:
                batches = sum(1 for _ in _arrow_batches(str(file))[1])
            except (pyarrow.ArrowInvalid, OSError) as e:
                raise damaged(file, "arrow", e) from None
            files.append(file)
            runs = evenly(batches, size)
            parts += [
                Part((str(file),), "arrow", start, stop, split, size // len(runs))
                for start, stop in runs
            ]
    return tuple(files), tuple(parts), names


def _hf_class_names(folder: pathlib.Path, label: str) -> tuple[str, ...]:
    features = json.loads((folder / "dataset_info.json").read_text())["features"]
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(names or ())


# --- array_record --------------------------------------------------------------------


def num_records(file: pathlib.Path) -> int:
    """How many an .array_record has.

    Raises:
      ValueError: it is none.
    """
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(file))
    if not reader.ok():
        raise damaged(file, "array_record", EOFError("it has no footer"))
    return reader.num_records()


def class_names(folder: pathlib.Path, label: str) -> tuple[str, ...]:
    """Of a field of the TFDS dataset in a folder; () where there is none."""
    features = _features(folder)
    found = features[label] if features and label in features else None
    return tuple(getattr(found, "names", None) or ())


def array_record(part: Part, text: str, label: str) -> Iterator[Record]:
    """UTF-8 texts, or examples of TFDS where its features.json lies beside them.

    Raises:
      ValueError: a record is neither, or has no such field.
    """
    from array_record.python import array_record_module

    file = part.files[0]
    reader = array_record_module.ArrayRecordReader(file)
    features = _features(pathlib.Path(file).parent)
    for field in (text, label):
        if field and features is not None and field not in features:
            raise no_field(file, field, field == text, list(features))
    stop = min(part.stop, reader.num_records())
    for start in range(part.start, stop, BLOCK):
        places = list(range(start, min(start + BLOCK, stop)))
        for k, row in zip(places, reader.read(places), strict=True):
            if features is None:
                yield _utf8(row, file, k), None
            else:
                example = features.deserialize_example_np(row)
                name = example[label] if label else None
                name = name.decode() if isinstance(name, bytes) else name
                yield example[text].decode(), label_name(name)


def _utf8(row: bytes, file: str, record: int) -> str:
    try:
        return row.decode()
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{file}, record {record} is not UTF-8: its byte {e.start} is of no "
            "character; a record must be a text, or an example of a TFDS dataset with "
            "its features.json in the same folder"
        ) from None


def _features(folder: pathlib.Path) -> Any:
    """Of the TFDS dataset in a folder; None where there is none."""
    if not (folder / "features.json").exists():
        return None
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict.from_config(str(folder))
