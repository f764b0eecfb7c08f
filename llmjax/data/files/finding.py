"""The files at a path, in slices of bounded size; errors that name what is there.

Where the slices begin depends on the files alone.
"""

import dataclasses
import difflib
import glob
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from llmjax.config import wording
from llmjax.data.files import reading_tables, saved_datasets
from llmjax.data.files.slices import (
    BLOCK,
    FORMATS,
    SLICE_BYTES,
    TEXT_FORMATS,
    FileSlice,
    evenly,
    unreadable,
)
from llmjax.data.files.splits import SPLITS, named

_SHARD = re.compile(r"(?:-(\w+))?\.array_record(?:-\d+-of-\d+)?$", re.IGNORECASE)
_PACKED = re.compile(r"\.(gz|zst)$", re.IGNORECASE)
_DESCRIPTIONS = frozenset(  # of the data beside them, and no data
    ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
)
ACCEPTED = (
    f"{', '.join(f'.{f}' for f in TEXT_FORMATS)} (also .gz and .zst), .parquet, "
    ".array_record"
)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files at a path, and the same in slices.

    Attributes:
      files: those that are read.
      slices: the same, cut.
      class_names: where the dataset names its classes.
      left_out: files of a folder that are of no format.
      named: whether the files' names say their splits.
      cut: whether a .txt that is alone, or alone of its split, is cut into passages.
    """

    files: tuple[pathlib.Path, ...]
    slices: tuple[FileSlice, ...]
    class_names: tuple[str, ...] = ()
    left_out: tuple[pathlib.Path, ...] = ()
    named: bool = False
    cut: bool = False

    @property
    def splits(self) -> list[str]:
        """The splits of the files, "train" first; [""] where they say none."""
        names = dict.fromkeys(file_slice.split for file_slice in self.slices)
        return sorted(names, key=lambda s: SPLITS.index(s) if s in SPLITS else 9)


def path_of(source: str) -> pathlib.Path:
    """The path that a source is; ~ is the home, where that user has one."""
    path = pathlib.Path(source)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def exists(source: str) -> bool:
    """Whether a file or folder is at a path, or matches it as a glob."""
    return bool(source) and bool(_matches(source))


def find(source: str, label: str = "", *, cut: bool = False) -> Listing:
    """The files at a path: a file, a folder with all below it, or a glob of these.

    What exists under that very name is no glob. Of a folder, hidden files and folders
    are left out, and files of no format.

    Args:
      source: the path.
      label: the field whose class names to read, of a dataset that has them.
      cut: a .txt that is alone, or alone of its split, is many documents.

    Raises:
      ValueError: nothing there that can be read, or an empty file; names it.
    """
    path = path_of(source)
    if saved_datasets.is_one(path):
        return Listing(*saved_datasets.files(path, label))
    files: list[pathlib.Path] = []
    left_out: list[pathlib.Path] = []
    for match in _matches(source):
        if match.is_dir():
            for file in _below(match):
                (files if format_of(file) else left_out).append(file)
        elif not format_of(match):
            raise ValueError(
                f"{match} is of no format that can be read; accepted: {ACCEPTED}"
            )
        else:
            files.append(match)
    if not files:
        there = f" It has {counted(left_out)}." if left_out else ""
        if hidden := _hidden(path):
            number = wording.count(len(hidden), "hidden file")
            there += f" Not read: {number}, as {hidden[0].name}."
        raise ValueError(
            f"data.source={source!r} holds no file that can be read; accepted: "
            f"{ACCEPTED}, or a Hugging Face dataset saved to disk.{there}"
        )
    folder = path if path.is_dir() else files[0].parent
    names = reading_tables.class_names(folder, label) if label else ()
    files = [*dict.fromkeys(files)]
    splits = named(folder, files) if len(files) > 1 else {}
    slices = _sliced(files, splits, cut)
    long = any(file_slice.format == "passages" for file_slice in slices)
    return Listing(tuple(files), slices, names, tuple(left_out), bool(splits), long)


def missing(source: str) -> str:
    """The reason why nothing is at a path: where it ends, and what is near."""
    path = path_of(source)
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        path, parent = parent, parent.parent
    if not parent.is_dir():
        return f"{str(parent)!r} is a file and no folder"
    try:
        names = [p.name for p in sorted(parent.iterdir())]
    except OSError as e:
        return f"the folder {str(parent)!r} cannot be read ({e.strerror})"
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(path.name.lower(), lower, n=1, cutoff=0.6)
    meant = f"; did you mean {str(parent / lower[near[0]])!r}?" if near else ""
    return f"the folder {str(parent.absolute())!r} has no {path.name!r}{meant}"


def counted(files: Iterable[pathlib.Path]) -> str:
    """Files by the ends of their names, each with an example."""
    files = list(files)
    ends = Counter(_end(file) for file in files)
    examples = {_end(file): file.name for file in reversed(files)}
    shown = [f"{n} {end} ({examples[end]})" for end, n in ends.most_common(8)]
    return ", ".join(shown) + (", …" if len(ends) > len(shown) else "")


def _end(file: pathlib.Path) -> str:
    return file.suffix.lower() or "without an ending"


def format_of(file: pathlib.Path) -> str:
    """One of `FORMATS`, or "": by the end of its name, in any case."""
    name = file.name.lower()
    if name in _DESCRIPTIONS:
        return ""
    if _SHARD.search(name):
        return "array_record"
    packed = _PACKED.search(name)
    forms = TEXT_FORMATS if packed else FORMATS
    stem = name[: packed.start()] if packed else name
    return next((form for form in forms if stem.endswith(f".{form}")), "")


def _matches(source: str) -> list[pathlib.Path]:
    path = path_of(source)
    if path.exists():
        return [path]
    return [pathlib.Path(p) for p in sorted(glob.glob(str(path), recursive=True))]


def _below(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files below a folder, also behind links; none that is hidden, sorted.

    Beside the features.json of a TFDS dataset only its records are data.
    """
    files: list[pathlib.Path] = []
    seen: set[str] = set()

    def fail(e: OSError) -> None:
        raise unreadable(e.filename, e)

    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".")
            and os.path.realpath(os.path.join(place, name)) not in seen
        ]
        if "features.json" in names:
            names = [name for name in names if _SHARD.search(name)]
        files += [
            path
            for name in names
            if not name.startswith(".")
            for path in [pathlib.Path(place, name)]
            if path.is_file() or not path.exists()  # a link to nothing is an error
        ]
    return sorted(files)


def _hidden(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files below a folder whose own name, or a folder's there, has a dot first."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


# --- slices --------------------------------------------------------------------------


def _sliced(
    files: Iterable[pathlib.Path], splits: Mapping[str, str], cut: bool
) -> tuple[FileSlice, ...]:
    """The slices of files, texts first."""
    slices: list[FileSlice] = []
    texts: dict[str, list[tuple[str, int]]] = {}
    for file in files:
        form, split = format_of(file), splits.get(str(file), "")
        try:
            size = file.stat().st_size
        except OSError as e:
            raise unreadable(file, e) from None
        if size == 0:
            raise ValueError(f"{file} is empty; delete it, or write it again")
        if form == "txt":
            texts.setdefault(split, []).append((str(file), size))
        else:
            own = _slices(file, form, size)
            slices += [dataclasses.replace(s, split=s.split or split) for s in own]
    grouped: list[FileSlice] = []
    for split, of_split in texts.items():
        alone = cut and len(of_split) == 1 and split not in {s.split for s in slices}
        own = _passages(*of_split[0]) if alone else _grouped(of_split)
        grouped += [dataclasses.replace(s, split=split) for s in own]
    return (*grouped, *slices)


def _passages(file: str, size: int) -> Iterator[FileSlice]:
    """The slices of a .txt of many documents; a packed one is one."""
    runs = [(0, size)] if _PACKED.search(file) else evenly(size, size)
    for start, stop in runs:
        yield FileSlice((file,), "passages", start, stop, size=stop - start)


def _slices(file: pathlib.Path, form: str, size: int) -> Iterator[FileSlice]:
    """The slices of one file."""
    match = _SHARD.search(file.name)
    split = (match[1] or "") if match else ""
    if form == "parquet":
        n = reading_tables.row_groups(file)
    elif form == "array_record":
        n = reading_tables.num_records(file)
    elif form == "jsonl" and not _PACKED.search(file.name):
        n = size
    else:  # what is packed or quoted is read from its beginning to its end
        yield FileSlice((str(file),), form, split=split, size=size)
        return
    runs = evenly(n, size)
    for start, stop in runs:
        yield FileSlice((str(file),), form, start, stop, split, size // len(runs))


def _grouped(texts: Iterable[tuple[str, int]]) -> Iterator[FileSlice]:
    """Single files gathered to slices of some size."""
    files: list[str] = []
    total = 0
    for file, size in texts:
        files.append(file)
        total += size
        if total >= SLICE_BYTES or len(files) >= BLOCK:
            yield FileSlice(tuple(files), "txt", size=total)
            files, total = [], 0
    if files:
        yield FileSlice(tuple(files), "txt", size=total)
