"""A table that is written row by row, whole or not at all, and goes on after a kill.

Rows lie in `NAME.part` until all are there. `NAME.progress`, replaced after each write,
says how many bytes of it count; what a kill left behind them is written again. One
process at a time writes: it holds `.NAME.lock`.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmjax.train import lock

Rows = Sequence[Mapping[str, Any]]


class Output:
    """A file of rows, as .jsonl, or as .csv or .tsv with nested names joined by dots.

    Attributes:
      path: of the whole file.
      rows: number of rows that are written.
      counts: what else was counted, kept with them.
      endings: of names that are accepted.
    """

    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".csv", ".tsv")

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        """Begins, or goes on with rows of the same identity.

        Args:
          path: ends with .jsonl, .csv or .tsv; it must not exist.
          identity: of the rows, as JSON has it.

        Raises:
          ValueError: another ending, a file that is there, another identity, or another
            process that writes it.
        """
        ending = path.suffix.lower()
        if ending not in self.endings:
            raise ValueError(
                f"--output={path} ends with {ending or 'nothing'!r}; accepted: "
                + ", ".join(self.endings)
            )
        self.path, self.rows, self.counts = path, 0, dict[str, Any]()
        self._delimiter = {".csv": ",", ".tsv": "\t"}.get(ending)
        self._part = path.with_name(f"{path.name}.part")
        self._progress = path.with_name(f"{path.name}.progress")
        self._identity = json.loads(json.dumps(identity))
        with contextlib.ExitStack() as stack:
            self._acquire(stack)
            if path.exists():
                raise ValueError(
                    f"--output={path} is there; remove it, or give another"
                )
            size = self._resume()
            self._file = self._part.open("r+b" if size else "wb")
            stack.callback(self._file.close)
            self._file.truncate(size)
            self._file.seek(size)
            stack.callback(self._drop_empty)
            self._held = stack.pop_all()

    def _acquire(self, stack: contextlib.ExitStack) -> None:
        """Takes the lock until `stack` ends."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f".{self.path.name}.lock"
        if (holder := lock.acquire(file, stack)) is not None:
            raise ValueError(
                f"--output={self.path}: {self.path.name} in {folder} is being "
                f"written by {holder}; wait for it or end it, or give another --output"
            )
        stack.callback(file.unlink, missing_ok=True)

    def _resume(self) -> int:
        """The bytes of the part that count, and of what rows."""
        if not self._progress.exists() or not self._part.exists():
            return 0
        try:
            saved = json.loads(self._progress.read_text())
            size, rows, counts = saved["bytes"], saved["rows"], saved["counts"]
            identity = saved["identity"]
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f"{self._progress} is damaged; remove it to begin anew"
            ) from e
        for key, value in self._identity.items():
            if identity.get(key) != value:
                raise ValueError(
                    f"{self._part} was begun with {key} {identity.get(key)} and this "
                    f"is {value}; remove it and {self._progress} to begin anew"
                )
        if self._part.stat().st_size < size:
            raise ValueError(
                f"{self._part} has lost its end; remove it and {self._progress} to "
                "begin anew"
            )
        self.rows, self.counts = rows, counts
        return size

    def write(self, rows: Rows, counts: Mapping[str, Any]) -> None:
        """Adds rows; once this returns they stay.

        Args:
          rows: of equal keys.
          counts: of all rows up to these.
        """
        self._file.write(self._encoded(rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows, self.counts = self.rows + len(rows), dict(counts)
        progress = {
            "identity": self._identity,
            "rows": self.rows,
            "bytes": self._file.tell(),
            "counts": self.counts,
        }
        new = self._progress.with_name(f"{self._progress.name}.new")
        new.write_text(json.dumps(progress))
        new.replace(self._progress)

    def finish(self) -> None:
        """Gives the file its name."""
        with self._held:
            self._part.replace(self.path)
            self._progress.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves what is written, if anything, for a later call."""
        self._held.close()

    def _drop_empty(self) -> None:
        """Removes a part that has nothing."""
        if self._part.exists() and not self._part.stat().st_size:
            self._part.unlink()

    def _encoded(self, rows: Rows) -> bytes:
        return self._text(rows).encode()

    def _text(self, rows: Rows) -> str:
        if self._delimiter is None:
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            return "".join(f"{line}\n" for line in lines)
        flat = [_flat(row) for row in rows]
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
        if not self.rows and flat:
            writer.writerow(flat[0])
        writer.writerows(row.values() for row in flat)
        return text.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
