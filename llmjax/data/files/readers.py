"""Files of many formats as (text, label) records, in parts of bounded size.

.txt (a document per file), .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet, .array_record
(UTF-8 text, or examples of TFDS), and the folder of a Hugging Face dataset saved to
disk. Where the parts begin depends on the files alone.
"""

import dataclasses
import glob
import pathlib
import re
from collections.abc import Iterable, Iterator

from llmjax.data.files import reading_tables, reading_text
from llmjax.data.files.parts import BLOCK, FORMATS, PART_BYTES, Part, Record, evenly

_SHARD = re.compile(r"(?:-(\w+))?\.array_record(?:-\d+-of-\d+)?$")
_ACCEPTED = ", ".join(f".{f}" for f in FORMATS)


@dataclasses.dataclass(frozen=True)
class Found:
    """What lies at a path: the files, and the same in parts."""

    files: tuple[pathlib.Path, ...]
    parts: tuple[Part, ...]
    class_names: tuple[str, ...] = ()  # where the dataset names its classes


def exists(source: str) -> bool:
    """Whether something lies at a path or fits a glob."""
    return bool(source) and bool(glob.glob(str(pathlib.Path(source).expanduser())))


def find(source: str, label: str = "") -> Found:
    """The files at a path: a file, a folder, or a glob.

    Args:
      source: the path.
      label: the field whose class names are wanted, of a dataset that has them.

    Raises:
      ValueError: nothing there that can be read, or an empty file; names it.
    """
    path = pathlib.Path(source).expanduser()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return Found(*reading_tables.saved_to_disk(path, label))
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if f.is_file() and _format(f)]
    else:
        files = [pathlib.Path(p) for p in sorted(glob.glob(str(path)))]
    if not files:
        raise ValueError(
            f"data.source={source!r} holds no file that can be read; accepted: "
            f"{_ACCEPTED}, or a Hugging Face dataset saved to disk"
        )
    parts: list[Part] = []
    texts: list[tuple[str, int]] = []
    for file in files:
        form, size = _format(file), file.stat().st_size
        if not form:
            raise ValueError(
                f"{file} is of no format that can be read; accepted: {_ACCEPTED}"
            )
        if size == 0:
            raise ValueError(f"{file} is empty; delete it, or write it again")
        if form == "txt":
            texts.append((str(file), size))
        else:
            parts += _parts(file, form, size)
    names = reading_tables.class_names(path, label) if label else ()
    return Found(tuple(files), (*_grouped(texts), *parts), names)


def read(part: Part, text: str, label: str) -> Iterator[Record]:
    """The records of a part; `text` and `label` (or "") are the fields' names.

    Raises:
      ValueError: a file is not what its name says; says where and what to do.
    """
    if part.format == "txt":
        return ((reading_text.text_file(file), None) for file in part.files)
    if part.format.startswith("jsonl"):
        return reading_text.jsonl(part, text, label)
    if part.format == "csv":
        return reading_text.rows(part.files[0], text, label)
    if part.format == "array_record":
        return reading_tables.array_record(part, text, label)
    return reading_tables.table(part, text, label)


def _format(file: pathlib.Path) -> str:
    """One of `FORMATS`, or ""."""
    if _SHARD.search(file.name):
        return "array_record"
    return next((f for f in FORMATS if file.name.endswith(f".{f}")), "")


def _parts(file: pathlib.Path, form: str, size: int) -> Iterator[Part]:
    """The parts of one file."""
    match = _SHARD.search(file.name)
    split = (match[1] or "") if match else ""
    n = 1  # what is compressed or quoted is read from its beginning to its end
    if form == "jsonl":
        n = size
    elif form == "parquet":
        n = reading_tables.row_groups(file)
    elif form == "array_record":
        n = reading_tables.num_records(file)
    runs = evenly(n, size)
    for start, stop in runs:
        yield Part((str(file),), form, start, stop, split, size // len(runs))


def _grouped(texts: Iterable[tuple[str, int]]) -> Iterator[Part]:
    """Single files gathered to parts of some size."""
    files: list[str] = []
    total = 0
    for file, size in texts:
        files.append(file)
        total += size
        if total >= PART_BYTES or len(files) >= BLOCK:
            yield Part(tuple(files), "txt", size=total)
            files, total = [], 0
    if files:
        yield Part(tuple(files), "txt", size=total)
