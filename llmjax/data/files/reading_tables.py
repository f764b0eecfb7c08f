"""Binary files as rows: .parquet, .arrow, .array_record."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from llmjax.data.files.slices import (
    BLOCK,
    Columns,
    FileSlice,
    Row,
    damaged,
    require_columns,
    unreadable,
)
from llmjax.data.store import manifest

# --- parquet and arrow ---------------------------------------------------------------

_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an arrow stream


@contextlib.contextmanager
def _whole(file: Any, form: str) -> Iterator[None]:
    """Rewords what pyarrow raises for a damaged file."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, UnicodeError, OverflowError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise unreadable(file, e) from None
        raise damaged(file, form, e) from None


def row_groups(file: pathlib.Path) -> int:
    """The number of row groups of a .parquet.

    Raises:
      ValueError: it is none.
    """
    import pyarrow.parquet

    with _whole(file, "parquet"):
        return pyarrow.parquet.ParquetFile(file).num_row_groups


def num_batches(file: pathlib.Path) -> int:
    """The number of record batches of an .arrow.

    Raises:
      ValueError: it is none.
    """
    with _whole(file, "arrow"):
        return sum(1 for _ in _arrow_batches(str(file))[1])


def columns(file_slice: FileSlice) -> list[str]:
    """The columns of a .parquet, an .arrow, or an .array_record of TFDS."""
    import pyarrow.parquet

    file = file_slice.files[0]
    if file_slice.format == "array_record":
        return list(_features(pathlib.Path(file).parent) or ())
    if file_slice.format == "parquet":
        return pyarrow.parquet.read_schema(file).names
    return _arrow_batches(file)[0].names


def table(file_slice: FileSlice, columns: Columns) -> Iterator[Row]:
    """The rows of a slice of a .parquet or an .arrow.

    Raises:
      ValueError: it has no such column, or two, or is damaged.
    """
    file, form = file_slice.files[0], file_slice.format
    with _whole(file, form):
        read = _parquet_batches if form == "parquet" else _arrow_slice
        names, first, batches = read(file_slice, columns)
        require_columns(file, columns, names)
    while True:
        with _whole(file, form):
            batch = next(batches, None)
        if batch is None:
            return
        values = [_column(batch, column, file, first) for column in columns]
        for number, row in enumerate(zip(*values, strict=True), first):
            where = functools.partial("{}, row {}".format, file, number)
            yield Row(dict(zip(columns, row, strict=True)), where)
        first += len(batch)


def _parquet_batches(
    file_slice: FileSlice, columns: Columns
) -> tuple[list[str], int, Iterator[Any]]:
    """Names of columns, the number of the first row, and batches of rows."""
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(file_slice.files[0])
    stop = min(file_slice.stop, opened.num_row_groups)
    groups = list(range(file_slice.start, stop))
    before = range(file_slice.start)
    first = sum(opened.metadata.row_group(k).num_rows for k in before)
    batches = opened.iter_batches(BLOCK, groups, list(columns))
    return opened.schema_arrow.names, first, batches


def _arrow_slice(
    file_slice: FileSlice, columns: Columns
) -> tuple[list[str], int, Iterator[Any]]:
    """The same of an .arrow."""
    schema, every = _arrow_batches(file_slice.files[0])
    first = sum(next(every).num_rows for _ in range(file_slice.start))
    batches = itertools.islice(every, file_slice.stop - file_slice.start)
    return schema.names, first, batches


def _arrow_batches(file: str) -> tuple[Any, Iterator[Any]]:
    """The schema and the record batches of an arrow stream or file, mapped."""
    import pyarrow

    mapped = pyarrow.memory_map(file)
    try:
        stream = pyarrow.ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        whole = pyarrow.ipc.open_file(mapped)
        batches = (whole.get_batch(k) for k in range(whole.num_record_batches))
        return whole.schema, batches
    with open(file, "rb") as data:  # cut between two batches it would end in silence
        data.seek(-min(len(_END), mapped.size()), os.SEEK_END)
        if data.read() != _END:
            raise pyarrow.ArrowInvalid("the mark of its end is missing")
    return stream.schema, iter(stream)


def _column(batch: Any, name: str, file: str, first: int) -> list[Any]:
    """The values of a column of some rows, which are checked before."""
    import pyarrow

    column = batch.column(name)
    try:
        column.validate(full=True)
        return column.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as e:
        raise ValueError(
            f"{file}, rows {first} to {first + len(batch) - 1}: the column {name!r} "
            f"cannot be read ({' '.join(str(e).split())}); mend it, or write the file "
            "again"
        ) from None


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
    if not features or label not in features:
        return ()
    names = feature_classes(features[label])
    if label == "label" and not names and (folder / "metadata.json").exists():
        metadata = manifest.read_json(epath.Path(folder / "metadata.json"))
        names = tuple(metadata.get("class_names", ()))  # of our own builders
    return names


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
        try:
            records = reader.read(places)
        except (RuntimeError, IndexError, ValueError) as e:
            raise damaged(file, "array_record", e) from None
        if len(records) != len(places):
            raise damaged(file, "array_record", EOFError("records are missing"))
        for k, record in zip(places, records, strict=True):
            if features is None:
                texts = [_utf8(record, file, k), *[None] * (len(columns) - 1)]
                values = dict(zip(columns, texts, strict=True))
            else:
                place = f"{file}, record {k}"
                example = _example(features, record, place)
                values = {c: decoded(example[c], place) for c in columns}
            yield Row(values, functools.partial("{}, record {}".format, file, k))


def _example(features: Any, record: bytes, place: str) -> Any:
    try:
        return features.deserialize_example_np(record)
    except Exception as e:  # of protobuf, numpy or TFDS, whatever is wrong first
        raise ValueError(
            f"{place} is no example of the features.json beside it "
            f"({type(e).__name__}: {' '.join(str(e).split())}); prepare the dataset "
            "again"
        ) from None


def decoded(value: Any, place: str) -> Any:
    """A value of TFDS in plain Python: text for bytes, lists for arrays.

    Raises:
      ValueError: bytes that are no text; names the place.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as e:
            raise ValueError(
                f"{place} holds bytes that are no UTF-8 (byte {e.start}) where a text "
                "is read; name another field"
            ) from None
    if isinstance(value, np.ndarray | np.generic):
        return decoded(value.tolist(), place)
    if isinstance(value, list):
        return [decoded(v, place) for v in value]
    if isinstance(value, dict):
        return {k: decoded(v, place) for k, v in value.items()}
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

    path = folder / "features.json"
    try:
        foreign = _foreign_class(json.loads(path.read_bytes()))
        if foreign:
            raise ValueError(f"it names the class {foreign!r}, which is none of TFDS")
        return tfds.features.FeaturesDict.from_config(str(folder))
    except Exception as e:  # of json, protobuf or TFDS, whatever is wrong first
        raise ValueError(
            f"{path} is damaged ({type(e).__name__}: {' '.join(str(e).split())}); "
            "prepare the dataset again"
        ) from None


def _foreign_class(value: Any) -> str:
    """A class in a features.json that TFDS would import from elsewhere; "": none."""
    if isinstance(value, list):
        return next(filter(None, map(_foreign_class, value)), "")
    if not isinstance(value, dict):
        return ""
    for key in ("pythonClassName", "python_class_name", "type"):
        name = value.get(key)
        if isinstance(name, str) and not name.startswith("tensorflow_datasets."):
            return name
    return _foreign_class(list(value.values()))
