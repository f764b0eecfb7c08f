"""Clean documents on disk: a TFDS dataset, or those of local files.

Both are read in ranges, one per job, and by split and field as text.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from etils import epath

from llmjax.data.store import manifest

_BATCH = 512  # documents
_CHUNK_BYTES = 4 << 20
_BLOCKS = 16  # of local files, of half a million characters

_CHECKSUMS, _VERIFIED = "checksums.json", "verified.json"

SplitText = tuple[str, str, int]  # split, text, class (-1 for none)


@dataclasses.dataclass(frozen=True)
class DocumentRange:
    """Documents that one job reads: of a split, or of all ("")."""

    field: str
    split: str
    start: int
    stop: int
    size: int  # bytes, roughly
    file: int = 0  # of local files: the number of the slice


@runtime_checkable
class Documents(Protocol):
    """A dataset on disk; can be pickled.

    Attributes:
      folder: its place.
      account: content_sha256, class_names, fields, documents (split -> how many).
    """

    @property
    def folder(self) -> epath.Path: ...

    @property
    def account(self) -> dict[str, Any]: ...

    def ranges(self, field: str) -> list[DocumentRange]:
        """All documents, in order, whatever the number of workers."""

    def read(self, extent: DocumentRange) -> Iterator[list[SplitText]]:
        """The documents of a range, some at a time."""

    def texts(self, split: str, field: str) -> Iterable[str]:
        """A split's texts in order, with a length; can be iterated again and again."""


def open_documents(folder: epath.Path, account: dict[str, Any]) -> Documents:
    """The dataset in a folder, which `account` describes."""
    kind = FileDocuments if "parts" in account else TfdsDocuments
    return kind(folder, account)


@dataclasses.dataclass(frozen=True)
class _Texts:
    """The texts of one split in one field."""

    documents: Documents
    split: str
    field: str

    def __len__(self) -> int:
        return self.documents.account["documents"][self.split]

    def __iter__(self) -> Iterator[str]:
        for extent in self.documents.ranges(self.field):
            if extent.split in ("", self.split):
                for batch in self.documents.read(extent):
                    yield from (text for s, text, _ in batch if s == self.split)


@dataclasses.dataclass(frozen=True)
class TfdsDocuments:
    """A dataset that TFDS wrote as ArrayRecord."""

    folder: epath.Path
    account: dict[str, Any]

    def ranges(self, field: str) -> list[DocumentRange]:
        ranges = []
        for split, n in self.account["documents"].items():
            size = self.account.get("bytes", {}).get(split) or 1000 * n
            count = max(1, min(n, -(-size // _CHUNK_BYTES)))
            edges = [n * k // count for k in range(count + 1)]
            ranges += [
                DocumentRange(field, split, start, stop, size // count)
                for start, stop in itertools.pairwise(edges)
            ]
        return ranges

    def read(self, extent: DocumentRange) -> Iterator[list[SplitText]]:
        import tensorflow_datasets as tfds

        data = tfds.builder_from_directory(self.folder).as_data_source(extent.split)
        for start in range(extent.start, extent.stop, _BATCH):
            places = list(range(start, min(start + _BATCH, extent.stop)))
            yield [
                (extent.split, e[extent.field].decode(), int(e.get("label", -1)))
                for e in data.__getitems__(places)
            ]

    def texts(self, split: str, field: str) -> Iterable[str]:
        return _Texts(self, split, field)


@dataclasses.dataclass(frozen=True)
class FileDocuments:
    """Documents of `local_files`: an arrow file per slice of the input, and the split
    of each document."""

    folder: epath.Path
    account: dict[str, Any]

    def ranges(self, field: str) -> list[DocumentRange]:
        return [
            DocumentRange(field, "", start, stop, size * (stop - start) // blocks, k)
            for k, (size, blocks) in enumerate(self.account["parts"])
            for start in range(0, blocks, _BLOCKS)
            for stop in [min(start + _BLOCKS, blocks)]
        ]

    def read(self, extent: DocumentRange) -> Iterator[list[SplitText]]:
        splits, classes = [*self.account["documents"]], self.account["labels"]
        split_numbers = manifest.read_array(split_file(self.folder, extent.file))
        path = slice_file(self.folder, extent.file)
        for first, texts, labels in read_slice(path, extent.start, extent.stop):
            here = split_numbers[first : first + len(texts)].tolist()
            yield [
                (splits[split], text, classes.get(label, -1))
                for split, text, label in zip(here, texts, labels, strict=True)
                if split >= 0
            ]

    def texts(self, split: str, field: str) -> Iterable[str]:
        return _Texts(self, split, field)


def slice_file(folder: epath.Path, index: int) -> epath.Path:
    """The file with the documents of a slice of the input."""
    return folder / f"{index:06d}.arrow"


def split_file(folder: epath.Path, index: int) -> epath.Path:
    """The file with the splits of these documents, -1 for those that were dropped."""
    return folder / f"{index:06d}.split.npy"


def write_slice(
    path: epath.Path, blocks: Iterable[tuple[list[str], list[str | None]]]
) -> None:
    """Writes texts and their labels for `read_slice`, as an arrow file."""
    import pyarrow as pa

    schema = pa.schema([("text", pa.large_string()), ("label", pa.string())])
    with path.open("wb") as f, pa.ipc.new_file(f, schema) as writer:
        for texts, labels in blocks:
            arrays = [pa.array(texts, pa.large_string()), pa.array(labels, pa.string())]
            writer.write(pa.record_batch(arrays, schema=schema))


def read_slice(
    path: epath.Path, start: int, stop: int
) -> Iterator[tuple[int, list[str], list[str | None]]]:
    """Blocks `start` to `stop` of such a file, each after the number of documents
    before it.

    Raises:
      ValueError: it is damaged; names it and the remedy.
    """
    import pyarrow as pa

    try:
        source = path.open("rb") if "://" in str(path) else pa.memory_map(str(path))
        with source, pa.ipc.open_file(source) as blocks:
            first = sum(blocks.get_batch(k).num_rows for k in range(start))
            for k in range(start, stop):
                texts, labels = blocks.get_batch(k).columns
                yield first, texts.to_pylist(), labels.to_pylist()
                first += len(texts)
    except (pa.ArrowInvalid, FileNotFoundError) as e:
        raise ValueError(
            f"{path} is damaged ({e}); delete {path.parent} and run {manifest.PREPARE}"
        ) from e


def account_of(folder: epath.Path) -> dict[str, Any]:
    """The contents of `metadata.json`, TFDS's or ours; {} where there is none.

    Raises:
      ValueError: it is damaged; names it.
    """
    remedy = f"delete {folder} and run {manifest.PREPARE}"
    return manifest.read_json(folder / "metadata.json", remedy)


def check_files(folder: epath.Path, write: bool = False) -> None:
    """Compares the files of a dataset with `checksums.json`, once a boot.

    Args:
      folder: of a whole dataset.
      write: the account of its files, where there is none.

    Raises:
      FileNotFoundError, ValueError: one is missing or was changed; names it.
    """
    path = folder / _CHECKSUMS
    files = manifest.read_json(path, f"delete {folder} and run {manifest.PREPARE}")
    if not files and write:
        paths = [p for p in folder.iterdir() if p.name[0] != "." and not p.is_dir()]
        paths = [p for p in paths if p.name not in (_CHECKSUMS, _VERIFIED)]
        digests = manifest.hashes(paths, folder / _VERIFIED)
        files = {
            p.name: {"bytes": p.stat().length, "sha256": digests[str(p)]} for p in paths
        }
        manifest.write_json(path, files)
    manifest.verify(folder, files, folder / _VERIFIED)
