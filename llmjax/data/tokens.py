"""Tokenised documents on disk, read at random through a memory map."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

_FILES = ("tokens", "offsets", "labels", "sizes")
_ACCOUNT = "account.json"


class TokenSource:
    """`len(source)` documents; `source[i]` gives {"tokens": int32 [n], "label": int32}.

    Attributes:
      lengths: int64 [len], how many tokens each document has.
      labels: int32 [len], its class; -1 for none.
      sizes: int64 [len], UTF-8 bytes of its text.
      num_bytes: their sum.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray,
        sizes: np.ndarray,
    ):
        """`tokens` [all]; document i is `lengths[i]` of them from `starts[i]`."""
        self._tokens, self._starts = tokens, starts
        self.lengths, self.labels, self.sizes = lengths, labels, sizes
        self.num_bytes = int(sizes.sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        start = self._starts[index]
        tokens = self._tokens[start : start + self.lengths[index]]
        return {"tokens": tokens.astype(np.int32), "label": self.labels[index]}

    def select(self, indices: Sequence[int] | np.ndarray) -> "TokenSource":
        """The documents at `indices`, in that order."""
        i = np.asarray(indices, np.int64)
        return TokenSource(
            self._tokens,
            self._starts[i],
            self.lengths[i],
            self.labels[i],
            self.sizes[i],
        )

    def labelled(self) -> "TokenSource":
        """The documents that have a class."""
        return self.select(np.flatnonzero(self.labels >= 0))


def from_documents(
    documents: Iterable[Sequence[int] | np.ndarray],
    labels: Iterable[int] | None = None,
    token_bytes: np.ndarray | None = None,
) -> TokenSource:
    """A source in memory, of token ids int [n] and a label per document.

    Without `labels`, no document has one; without `token_bytes`, each token counts as
    a byte.
    """
    arrays = [np.asarray(d, np.int32) for d in documents]
    lengths = np.array([len(a) for a in arrays], np.int64)
    sizes = [len(a) if token_bytes is None else token_bytes[a].sum() for a in arrays]
    return TokenSource(
        np.concatenate([np.zeros(0, np.int32), *arrays]),
        np.cumsum(lengths) - lengths,
        lengths,
        np.array([-1] * len(arrays) if labels is None else [*labels], np.int32),
        np.array(sizes, np.int64),
    )


def write(
    folder: epath.PathLike,
    documents: Iterable[tuple[np.ndarray, int]],
    token_bytes: np.ndarray,
    key: str,
) -> None:
    """Writes (ids, label) pairs for `read`: ids as uint16 where the vocabulary permits.

    The account, with `key`, is the last of its files: without it, a folder is half.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True)
    pairs = list(documents)
    source = from_documents(
        [ids for ids, _ in pairs], [label for _, label in pairs], token_bytes
    )
    narrow = np.uint16 if len(token_bytes) <= 2**16 else np.int32
    tokens = source._tokens.astype(narrow)
    offsets = np.append(source._starts, len(tokens))
    arrays = (tokens, offsets, source.labels, source.sizes)
    for name, array in zip(_FILES, arrays, strict=True):
        with (folder / f"{name}.npy").open("wb") as f:
            np.save(f, array, allow_pickle=False)
    account = {
        "key": key,
        "documents": len(source),
        "tokens": len(tokens),
        "bytes": source.num_bytes,
    }
    (folder / _ACCOUNT).write_text(json.dumps(account))


def account(folder: epath.PathLike) -> dict[str, Any] | None:
    """key, documents, tokens and bytes; None where there is no whole folder."""
    path = epath.Path(folder) / _ACCOUNT
    if not path.exists():
        return None
    return json.loads(path.read_text())


def read(folder: epath.PathLike) -> TokenSource:
    """The source that `write` wrote; local files are mapped, others read whole.

    Raises:
      FileNotFoundError: the folder or one of its files is not there.
      ValueError: a file is damaged, or they don't belong together.
    """
    folder = epath.Path(folder)
    names = (*(f"{name}.npy" for name in _FILES), _ACCOUNT)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; delete it and "
            "run `python -m experiments.prepare_data --config=...`"
        )
    try:
        tokens, offsets, labels, sizes = (_load(folder / n) for n in names[:-1])
        if not len(offsets) == len(labels) + 1 == len(sizes) + 1:
            raise ValueError(f"{len(offsets)} offsets for {len(labels)} labels")
        if offsets[-1] != len(tokens):
            raise ValueError(f"{len(tokens)} tokens instead of {offsets[-1]}")
    except (ValueError, EOFError) as e:
        raise ValueError(
            f"{folder} is damaged ({e}); delete it and "
            "run `python -m experiments.prepare_data --config=...`"
        ) from e
    return TokenSource(
        tokens,
        np.array(offsets[:-1]),
        np.diff(offsets),
        np.array(labels),
        np.array(sizes),
    )


def _load(path: epath.Path) -> np.ndarray:
    if "://" not in str(path):
        return np.load(str(path), mmap_mode="r", allow_pickle=False)
    with path.open("rb") as f:
        return np.load(f, allow_pickle=False)
