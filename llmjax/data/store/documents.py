"""Clean documents on disk: a TFDS dataset, or what was made of local files.

Both are read in chunks, a task's worth each, and by split and field as text.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from etils import epath

from llmjax.data.store import manifest

_BATCH = 512  # documents
_CHUNK_BYTES = 4 << 20
_BLOCKS = 16  # of local files, of half a million characters

Document = tuple[str, str, int]  # split, text, class (-1 for none)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Documents that one task reads: of a split, or of all ("")."""

    field: str
    split: str
    start: int
    stop: int
    size: int  # bytes, roughly
    part: int = 0  # of local files


@runtime_checkable
class Documents(Protocol):
    """A dataset on disk; can be pickled.

    Attributes:
      folder: where it lies.
      account: content_sha256, class_names, fields, documents (split -> how many).
    """

    @property
    def folder(self) -> epath.Path: ...

    @property
    def account(self) -> dict[str, Any]: ...

    def chunks(self, field: str) -> list[Chunk]:
        """All documents, in order, whatever the number of workers."""

    def read(self, chunk: Chunk) -> Iterator[list[Document]]:
        """The documents of a chunk, some at a time."""

    def texts(self, split: str, field: str) -> Iterable[str]:
        """One split, in order; has a length and can be iterated again and again."""


def open_documents(folder: epath.Path, account: dict[str, Any]) -> Documents:
    """The dataset in a folder, which `account` tells of."""
    kind = FileDocuments if "parts" in account else TfdsDocuments
    return kind(folder, account)


@dataclasses.dataclass(frozen=True)
class _Texts:
    """One split of one field."""

    documents: Documents
    split: str
    field: str

    def __len__(self) -> int:
        return self.documents.account["documents"][self.split]

    def __iter__(self) -> Iterator[str]:
        for chunk in self.documents.chunks(self.field):
            if chunk.split in ("", self.split):
                for batch in self.documents.read(chunk):
                    yield from (text for s, text, _ in batch if s == self.split)


@dataclasses.dataclass(frozen=True)
class TfdsDocuments:
    """A dataset that TFDS wrote as ArrayRecord."""

    folder: epath.Path
    account: dict[str, Any]

    def chunks(self, field: str) -> list[Chunk]:
        found = []
        for split, n in self.account["documents"].items():
            size = self.account.get("bytes", {}).get(split) or 1000 * n
            count = max(1, min(n, -(-size // _CHUNK_BYTES)))
            edges = [n * k // count for k in range(count + 1)]
            found += [
                Chunk(field, split, start, stop, size // count)
                for start, stop in itertools.pairwise(edges)
            ]
        return found

    def read(self, chunk: Chunk) -> Iterator[list[Document]]:
        import tensorflow_datasets as tfds

        data = tfds.builder_from_directory(self.folder).as_data_source(chunk.split)
        for start in range(chunk.start, chunk.stop, _BATCH):
            places = list(range(start, min(start + _BATCH, chunk.stop)))
            yield [
                (chunk.split, e[chunk.field].decode(), int(e.get("label", -1)))
                for e in data.__getitems__(places)
            ]

    def texts(self, split: str, field: str) -> Iterable[str]:
        return _Texts(self, split, field)


@dataclasses.dataclass(frozen=True)
class FileDocuments:
    """What `local_files` wrote: an arrow file per part of the input, and which of its
    documents are in which split."""

    folder: epath.Path
    account: dict[str, Any]

    def chunks(self, field: str) -> list[Chunk]:
        return [
            Chunk(field, "", start, stop, size * (stop - start) // blocks, k)
            for k, (size, blocks) in enumerate(self.account["parts"])
            for start in range(0, blocks, _BLOCKS)
            for stop in [min(start + _BLOCKS, blocks)]
        ]

    def read(self, chunk: Chunk) -> Iterator[list[Document]]:
        splits, classes = [*self.account["documents"]], self.account["labels"]
        chosen = manifest.read_array(split_file(self.folder, chunk.part))
        path = part_file(self.folder, chunk.part)
        for first, texts, labels in read_part(path, chunk.start, chunk.stop):
            here = chosen[first : first + len(texts)].tolist()
            yield [
                (splits[split], text, classes.get(label, -1))
                for split, text, label in zip(here, texts, labels, strict=True)
                if split >= 0
            ]

    def texts(self, split: str, field: str) -> Iterable[str]:
        return _Texts(self, split, field)


def part_file(folder: epath.Path, index: int) -> epath.Path:
    """Of the documents of a part of the input."""
    return folder / f"{index:06d}.arrow"


def split_file(folder: epath.Path, index: int) -> epath.Path:
    """Of which of them are in which split."""
    return folder / f"{index:06d}.split.npy"


def write_part(
    path: epath.Path, blocks: Iterable[tuple[list[str], list[str | None]]]
) -> None:
    """Writes texts and their labels for `read_part`, as an arrow file."""
    import pyarrow as pa

    schema = pa.schema([("text", pa.large_string()), ("label", pa.string())])
    with path.open("wb") as f, pa.ipc.new_file(f, schema) as writer:
        for texts, labels in blocks:
            arrays = [pa.array(texts, pa.large_string()), pa.array(labels, pa.string())]
            writer.write(pa.record_batch(arrays, schema=schema))


def read_part(
    path: epath.Path, start: int, stop: int
) -> Iterator[tuple[int, list[str], list[str | None]]]:
    """Blocks `start` to `stop` that `write_part` wrote, each after the number of the
    documents before it.

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
    """`metadata.json`, of TFDS or ours; {} where there is none."""
    path = folder / "metadata.json"
    return json.loads(path.read_text()) if path.exists() else {}
