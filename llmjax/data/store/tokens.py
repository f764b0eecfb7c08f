"""Tokenised documents on disk, read at random through a memory map.

A folder holds the tokens in shards (`tokens-00000-of-00002.npy`, uint16 where the
vocabulary permits), and of all documents
together `lengths`, `offsets` (of the first token), `labels` and `sizes`. Written last,
`account.json` has counts, and size and sha256 of each file.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from llmjax.data.store.manifest import PREPARE, read_array, read_json, write_json

SHARD_BYTES = 64e6
_ACCOUNT = "account.json"
_DTYPES = {
    "lengths": np.int64,
    "offsets": np.int64,
    "labels": np.int32,
    "sizes": np.int64,
}


class TokenSource:
    """`len(source)` documents; `source[i]` gives {"tokens": int32 [n], "label": int32}.

    One of files is pickled as their place and the selection; documents are read when
    they are indexed, and memory does not grow with the corpus.

    Attributes:
      lengths: int64 [len], how many tokens each document has.
      labels: int32 [len], its class; -1 for none.
      sizes: int64 [len], UTF-8 bytes of its text.
    """

    def __init__(
        self,
        shards: Sequence[np.ndarray],
        starts: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray,
        sizes: np.ndarray,
        folder: str | None = None,
        indices: np.ndarray | None = None,
        numbers: np.ndarray | None = None,
    ):
        """Args:
        shards: arrays that are read end to end; each document lies in one,
          `lengths[i]` tokens from `starts[i]`.
        starts, lengths, labels, sizes: int [len].
        folder, indices: of the files, and of these documents in them.
        numbers: int, the label that stands for each of the files' own.
        """
        self._shards, self._starts = shards, starts
        self.lengths, self.labels, self.sizes = lengths, labels, sizes
        self._folder, self._indices, self._numbers = folder, indices, numbers
        ends = np.cumsum([len(shard) for shard in shards])
        self._bounds = np.concatenate([[0], ends[:-1]])

    @property
    def num_bytes(self) -> int:
        """The sum of `sizes`."""
        return int(self.sizes.sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        start, n = int(self._starts[index]), int(self.lengths[index])
        shard = int(np.searchsorted(self._bounds, start, "right")) - 1
        start -= int(self._bounds[shard])
        tokens = np.array(self._shards[shard][start : start + n], np.int32)
        return {"tokens": tokens, "label": self.labels[index]}

    def select(self, indices: Sequence[int] | np.ndarray) -> "TokenSource":
        """The documents at `indices`, in that order."""
        i = np.asarray(indices, np.int64)
        return TokenSource(
            self._shards,
            self._starts[i],
            self.lengths[i],
            self.labels[i],
            self.sizes[i],
            self._folder,
            i if self._indices is None else self._indices[i],
            self._numbers,
        )

    def numbered(self, numbers: Sequence[int]) -> "TokenSource":
        """The same documents, with `numbers[k]` for the label k."""
        assert self._numbers is None
        new = np.asarray(numbers, np.int32)
        none = self.labels < 0
        labels = np.where(none, self.labels, new[np.where(none, 0, self.labels)])
        rest = self.lengths, labels, self.sizes, self._folder, self._indices
        return TokenSource(self._shards, self._starts, *rest, new)

    def labelled(self) -> "TokenSource":
        """The documents that have a class."""
        return self.select(np.flatnonzero(self.labels >= 0))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._folder is not None:
            return _reopened, (self._folder, self._indices, self._numbers)
        arrays = (self._starts, self.lengths, self.labels, self.sizes)
        return TokenSource, (self._shards, *arrays)


def _reopened(
    folder: str, indices: np.ndarray | None, numbers: np.ndarray | None
) -> TokenSource:
    source = read(folder)
    source = source if numbers is None else source.numbered(numbers.tolist())
    return source if indices is None else source.select(indices)


def from_documents(
    documents: Iterable[Sequence[int] | np.ndarray],
    labels: Iterable[int] | None = None,
    token_bytes: np.ndarray | None = None,
) -> TokenSource:
    """A source in memory: token ids int [n] and a label per document.

    Without `labels`, no document has one; without `token_bytes`, each token counts as
    a byte.
    """
    arrays = [np.asarray(d, np.int32) for d in documents]
    lengths = np.array([len(a) for a in arrays], np.int64)
    sizes = [len(a) if token_bytes is None else token_bytes[a].sum() for a in arrays]
    return TokenSource(
        [np.concatenate([np.zeros(0, np.int32), *arrays])],
        np.cumsum(lengths) - lengths,
        lengths,
        np.array([-1] * len(arrays) if labels is None else [*labels], np.int32),
        np.array(sizes, np.int64),
    )


# --- writing -------------------------------------------------------------------------


def block(
    ids: Sequence[np.ndarray], labels: Sequence[int], sizes: Sequence[int]
) -> dict[str, np.ndarray]:
    """Some documents as arrays, which `write` concatenates."""
    return {
        "tokens": np.concatenate([np.zeros(0, np.int32), *ids]),
        "lengths": np.array([len(a) for a in ids], np.int64),
        "labels": np.array(labels, np.int32),
        "sizes": np.array(sizes, np.int64),
    }


class Blocks:
    """Blocks in files of `np.savez`, read one at a time and an array at a time."""

    def __init__(self, files: Sequence[epath.Path], prefix: str = ""):
        self._files, self._prefix = files, prefix

    def each(self, name: str) -> Iterator[np.ndarray]:
        """The array of that name of each block."""
        for file in self._files:
            with file.open("rb") as f, np.load(f) as arrays:
                if self._prefix + name in arrays.files:
                    yield arrays[self._prefix + name]


def write(
    folder: epath.PathLike,
    blocks: Blocks,
    vocab_size: int,
    key: str,
    shards: int | None = None,
) -> dict[str, Any]:
    """Writes blocks for `read`, and the account last: a folder without is incomplete.

    Args:
      folder: a new one.
      blocks: the documents, in order.
      vocab_size: ids are below it, and uint16 where they can be.
      key: the identity of the tokens.
      shards: number of token files, cut between documents; None: by size.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True)
    narrow = np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)
    arrays = {
        name: np.concatenate([np.zeros(0, dtype), *blocks.each(name)]).astype(dtype)
        for name, dtype in _DTYPES.items()
        if name != "offsets"
    }
    arrays["offsets"] = offsets = np.concatenate([[0], np.cumsum(arrays["lengths"])])
    total = int(offsets[-1])
    count = shards or max(1, -int(-total * narrow.itemsize // SHARD_BYTES))
    edges = offsets[np.searchsorted(offsets, total * np.arange(count) // count)]
    edges = np.append(edges, total)
    files = {
        f"{name}.npy": _save(folder / f"{name}.npy", [array], len(array), array.dtype)
        for name, array in arrays.items()
    }
    pieces = _cut(blocks.each("tokens"), np.diff(edges))
    for shard, length in enumerate(np.diff(edges)):
        file = f"tokens-{shard:05d}-of-{count:05d}.npy"
        files[file] = _save(folder / file, next(pieces), int(length), narrow)
    account = {
        "key": key,
        "documents": len(arrays["labels"]),
        "tokens": total,
        "bytes": int(arrays["sizes"].sum()),
        "shards": count,
        "files": files,
    }
    write_json(folder / _ACCOUNT, account)
    return account


def _cut(
    arrays: Iterator[np.ndarray], lengths: Sequence[int] | np.ndarray
) -> Iterator[Iterator[np.ndarray]]:
    """The concatenation of `arrays`, cut anew; use each part before the next."""
    rest = np.zeros(0)

    def part(missing: int) -> Iterator[np.ndarray]:
        nonlocal rest
        while missing:
            rest = rest if len(rest) else next(arrays)
            now, rest = rest[:missing], rest[missing:]
            missing -= len(now)
            yield now

    for length in lengths:
        yield part(int(length))


def _save(
    path: epath.Path, parts: Iterable[np.ndarray], length: int, dtype: np.dtype
) -> dict[str, Any]:
    """Writes an .npy file of `parts` end to end; returns its size and sha256."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as f:

        class Both:
            def write(self, data: bytes) -> None:
                nonlocal size
                digest.update(data)
                size += len(data)
                f.write(data)

        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (length,),
        }
        np.lib.format.write_array_header_1_0(Both(), header)
        for part in parts:
            Both().write(part.astype(dtype).tobytes())
    return {"bytes": size, "sha256": digest.hexdigest()}


# --- reading -------------------------------------------------------------------------


def account(folder: epath.PathLike) -> dict[str, Any] | None:
    """The account of a folder of token files; None where it is incomplete."""
    try:
        return read_json(epath.Path(folder) / _ACCOUNT) or None
    except ValueError:
        return None


def read(folder: epath.PathLike) -> TokenSource:
    """The source in a folder; local files are mapped, others read whole.

    Raises:
      FileNotFoundError: the folder or one of its files is not there.
      ValueError: a file is damaged, or they don't belong together.
    """
    folder = epath.Path(folder)
    remedy = f"delete it and run {PREPARE}"
    counts = account(folder)
    if counts is None:
        raise FileNotFoundError(f"{folder} lacks a whole {_ACCOUNT}; {remedy}")
    missing = [name for name in counts["files"] if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; {remedy}")
    for name, file in counts["files"].items():
        size = (folder / name).stat().length
        if size != file["bytes"]:
            raise ValueError(
                f"{folder / name} is damaged: {size} bytes instead of {file['bytes']}; "
                f"delete {folder} and run {PREPARE}"
            )
    count = counts["shards"]
    shards = [
        read_array(folder / f"tokens-{k:05d}-of-{count:05d}.npy") for k in range(count)
    ]
    lengths, offsets, labels, sizes = (read_array(folder / f"{n}.npy") for n in _DTYPES)
    return TokenSource(shards, offsets[:-1], lengths, labels, sizes, str(folder))
