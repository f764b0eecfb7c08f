"""Tables too large for memory: written once, found by their content, mapped."""

import contextlib
import hashlib
import json
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Table = dict[str, np.ndarray]
_ACCOUNT = "account.json"
_INTEGER = np.dtype("<i8")


class Index:
    """Tables of int64 columns, each a function of its key.

    On disk a table is a folder named by the sha256 of its key: a file per column, and
    an account of their hashes. It appears whole or not at all, and is written again
    where it is absent or damaged; any number of processes may do so at once.
    """

    def __init__(self, folder: Path | None, keep: int = 3):
        """Opens an index in `folder`, or in memory; `keep` tables stay open."""
        self._folder, self._keep = folder, keep
        self._open: OrderedDict[str, Table] = OrderedDict()
        self._lock = threading.Lock()

    def table(
        self, key: Mapping[str, Any], blocks: Callable[[], Iterable[Table]]
    ) -> Table:
        """The columns by name, int64 [any length each].

        Args:
          key: values of JSON's types.
          blocks: gives the table, a stretch of every column at a time; called only
            where there is no table.
        """
        text = json.dumps(key, sort_keys=True)
        with self._lock:
            if text not in self._open:
                self._open[text] = self._find(text, blocks)
            self._open.move_to_end(text)
            while len(self._open) > self._keep:
                self._open.popitem(last=False)
            return self._open[text]

    def _find(self, key: str, blocks: Callable[[], Iterable[Table]]) -> Table:
        if self._folder is None:
            stretches: dict[str, list[np.ndarray]] = {}
            for block in blocks():
                for name, column in block.items():
                    stretches.setdefault(name, []).append(column)
            return {name: np.concatenate(all_) for name, all_ in stretches.items()}
        place = self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        table = _read(place, key)
        return _write(place, key, blocks()) if table is None else table


def _read(place: Path, key: str) -> Table | None:
    """The table, mapped; None where it is absent or damaged."""
    try:
        account = json.loads((place / _ACCOUNT).read_text())
        if account["key"] != key:
            return None
        for name, digest in account["columns"].items():
            if _digest(place / name) != digest:
                return None
        return {name: _map(place / name) for name in account["columns"]}
    except (OSError, ValueError, KeyError):
        return None


def _write(place: Path, key: str, blocks: Iterable[Table]) -> Table:
    """Writes a table beside its place and moves it there; returns it mapped."""
    partial = place.with_name(f"{place.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            files: dict[str, Any] = {}
            for block in blocks:
                for name, column in block.items():
                    if name not in files:
                        files[name] = stack.enter_context((partial / name).open("wb"))
                    files[name].write(np.ascontiguousarray(column, _INTEGER).data)
        account = {"key": key, "columns": {n: _digest(partial / n) for n in files}}
        (partial / _ACCOUNT).write_text(json.dumps(account))
        # Mapped before it moves: another process may replace the folder meanwhile.
        table = {name: _map(partial / name) for name in files}
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(place)
        return table
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _map(path: Path) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros(0, _INTEGER)
    # A plain view: each access to a np.memmap goes through Python.
    return np.memmap(path, _INTEGER, mode="r").view(np.ndarray)


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
