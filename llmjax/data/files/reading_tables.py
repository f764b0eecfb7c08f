"""Binary files as rows: .parquet, .arrow, .array_record."""

import functools
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmjax.data.files.slices import (
    BLOCK,
    Columns,
    FileSlice,
    Row,
    damaged,
    evenly,
    require_columns,
)

# --- parquet and arrow ---------------------------------------------------------------


def row_groups(file: pathlib.Path) -> int:
    """The number of row groups of a .parquet.

    Raises:
      ValueError: it is none.
    """
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file).num_row_groups
    except pyarrow.ArrowInvalid as e:
        raise damaged(file, "parquet", e) from None


def table(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """The rows of a slice of a .parquet or an .arrow.

    Raises:
      ValueError: it has no such column, or is damaged.
    """
    import pyarrow.parquet

    file = file_slice.files[0]
    try:
        if file_slice.format == "parquet":
            opened = pyarrow.parquet.ParquetFile(file)
            require_columns(file, columns, opened.schema_arrow.names)
            stop = min(file_slice.stop, opened.num_row_groups)
            groups = range(file_slice.start, stop)
            before = range(file_slice.start)
            first = sum(opened.metadata.row_group(k).num_rows for k in before)
            batches = opened.iter_batches(BLOCK, list(groups), list(columns))
        else:
            schema, every = _arrow_batches(file)
            require_columns(file, columns, schema.names)
            first = sum(next(every).num_rows for _ in range(file_slice.start))
            batches = itertools.islice(every, file_slice.stop - file_slice.start)
        for batch in batches:
            values = [batch.column(column).to_pylist() for column in columns]
            for number, row in enumerate(zip(*values, strict=True), first):
                where = functools.partial("{}, row {}".format, file, number)
                yield Row(dict(zip(columns, row, strict=True)), where)
            first += len(batch)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise damaged(file, file_slice.format, e) from None


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
) -> tuple[tuple[pathlib.Path, ...], tuple[FileSlice, ...], tuple[str, ...]]:
    """A Hugging Face dataset (`save_to_disk`), or a dictionary of them by split.

    Returns:
      Files, slices, and the names of the classes, where `label` has them.

    Raises:
      ValueError: a file is damaged.
    """
    import pyarrow

    folders = {"": folder}
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        folders = {split: folder / split for split in splits}
    files: list[pathlib.Path] = []
    slices: list[FileSlice] = []
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
            slices += [
                FileSlice((str(file),), "arrow", start, stop, split, size // len(runs))
                for start, stop in runs
            ]
    return tuple(files), tuple(slices), names


def _hf_class_names(folder: pathlib.Path, label: str) -> tuple[str, ...]:
    features = json.loads((folder / "dataset_info.json").read_text())["features"]
    feature = features.get(label)
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]  # a sequence of them
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(names or ())


# --- array_record --------------------------------------------------------------------


def num_records(file: pathlib.Path) -> int:
    """The number of records of an .array_record.

    Raises:
      ValueError: it is none.
    """
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(file))
    if not reader.ok():
        raise damaged(file, "array_record", EOFError("it has no footer"))
    return reader.num_records()


def class_names(folder: pathlib.Path, label: str) -> tuple[str, ...]:
    """The class names of a field of a folder's TFDS dataset; () where there is none."""
    features = _features(folder)
    return feature_classes(features[label]) if features and label in features else ()


def feature_classes(feature: Any) -> tuple[str, ...]:
    """The names of the classes of a TFDS feature, or of a sequence of them."""
    feature = getattr(feature, "feature", feature)
    return tuple(getattr(feature, "names", None) or ())


def array_record(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """Examples of TFDS where features.json lies beside them, or UTF-8 texts.

    A text is the value of the first column; the others are None.

    Raises:
      ValueError: a record is neither, or has no such feature.
    """
    from array_record.python import array_record_module

    file = file_slice.files[0]
    reader = array_record_module.ArrayRecordReader(file)
    features = _features(pathlib.Path(file).parent)
    if features is not None:
        require_columns(file, columns, features)
    stop = min(file_slice.stop, reader.num_records())
    for start in range(file_slice.start, stop, BLOCK):
        places = list(range(start, min(start + BLOCK, stop)))
        for k, record in zip(places, reader.read(places), strict=True):
            if features is None:
                texts = [_utf8(record, file, k), *[None] * (len(columns) - 1)]
                values = dict(zip(columns, texts, strict=True))
            else:
                example = features.deserialize_example_np(record)
                values = {column: decoded(example[column]) for column in columns}
            yield Row(values, functools.partial("{}, record {}".format, file, k))


def decoded(value: Any) -> Any:
    """A value of TFDS in plain Python: text for bytes, lists for arrays."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray | np.generic):
        return decoded(value.tolist())
    if isinstance(value, list):
        return [decoded(v) for v in value]
    if isinstance(value, dict):
        return {k: decoded(v) for k, v in value.items()}
    return value


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
    """The features of the TFDS dataset in a folder; None where there is none."""
    if not (folder / "features.json").exists():
        return None
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict.from_config(str(folder))
