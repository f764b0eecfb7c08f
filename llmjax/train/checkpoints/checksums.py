"""Hashes of a checkpoint's files: written with it, compared before it is read.

`<step>/checksums.json` has the size and sha256 of each file of the checkpoint. Each
process hashes what it wrote, process 0 the rest; it is done in the background, as the
writing is, before the checkpoint counts as complete. To read one, each process hashes
its share of the files, and all learn of a damaged one.

A core hashes 1 to 2 GB/s (0.4 without instructions for sha256), files in parallel; what
is on a local disk is still in memory after it was written, a bucket is read once more.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from llmjax.data.store import manifest
from llmjax.train.checkpoints.damage import DamagedError

FILE = "checksums.json"
# orbax writes these two after everything else; no value is read from them
LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")

Accounts = dict[str, dict[str, Any]]  # path below a folder -> {"bytes", "sha256"}


class StateHandler(ocp.PyTreeCheckpointHandler):
    """Writes and reads a state as orbax does, and hashes what was written."""

    folder: epath.Path  # of the checkpoint that was finalized last

    async def async_save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> Any:
        """Starts writing; what it returns waits for this process's files and hashes."""
        writing = await super().async_save(directory, *args, **kwargs)
        return [_Hashing(writing or [], directory)]

    def finalize(self, directory: epath.Path) -> None:
        """Joins the parts of all processes; only process 0 is called."""
        super().finalize(directory)
        self.folder = directory.parent

    def write_checksums(self) -> None:
        """Hashes what no process has hashed, and writes the accounts of all files."""
        known: Accounts = {}
        for part in self.folder.glob(f"*/{_part('*')}"):
            for name, account in json.loads(part.read_text()).items():
                known[f"{part.parent.name}/{name}"] = account
            part.unlink()
        write(self.folder, known)


def write(folder: epath.Path, known: Accounts) -> None:
    """Writes the accounts of all files of a folder; hashes those that are not known."""
    names = [name for name in _files(folder) if name not in LAST]
    rest = [name for name in names if name not in known]
    manifest.write_json(folder / FILE, known | _hashed(folder, rest))


@ocp.args.register_with_handler(StateHandler, for_save=True)
@dataclasses.dataclass
class SaveState(ocp.args.PyTreeSave):
    """Arguments of `StateHandler` for saving."""


@ocp.args.register_with_handler(StateHandler, for_restore=True)
@dataclasses.dataclass
class RestoreState(ocp.args.PyTreeRestore):
    """Arguments of `StateHandler` for restoring."""


class _Hashing:
    """A future of orbax: the files of this process, written and hashed."""

    def __init__(self, writing: Sequence[Any], directory: epath.Path):
        self.writing, self.directory = writing, directory

    def result(self, timeout: float | None = None) -> None:
        for future in self.writing:
            future.result(timeout)
        process = jax.process_index()
        own = self.directory / f"ocdbt.process_{process}"  # which no other writes
        names = [f"{own.name}/{name}" for name in _files(own)]
        part = self.directory / _part(process)
        part.write_text(json.dumps(_hashed(self.directory, names)))

    def cancel(self) -> None:
        for future in self.writing:
            future.cancel()


def _part(process: int | str) -> str:
    """The name of the file with the hashes of one process, until all are joined."""
    return f"checksums.process_{process}.json"


def _files(folder: epath.Path) -> list[str]:
    """Paths of all files below a folder."""
    if not folder.exists():
        return []
    names: list[str] = []
    for path in folder.iterdir():
        below = _files(path) if path.is_dir() else None
        names += [path.name] if below is None else [f"{path.name}/{n}" for n in below]
    return sorted(names)


def _hashed(folder: epath.Path, names: Sequence[str]) -> Accounts:
    def account(name: str) -> dict[str, Any]:
        path = folder / name
        return {"bytes": path.stat().length, "sha256": manifest.sha256(path)}

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashlib lets others run
        return dict(zip(names, threads.map(account, names), strict=True))


# --- reading -------------------------------------------------------------------------


def read(folder: epath.Path, remedy: str) -> Accounts | None:
    """The accounts of a folder's files; None where it was written without.

    Raises:
      DamagedError: they can't be read.
    """
    if not (folder / FILE).exists():
        return None
    try:
        return manifest.read_json(folder / FILE, remedy)
    except ValueError as e:
        raise DamagedError(str(e)) from e


def check(folder: epath.Path, accounts: Accounts, remedy: str) -> None:
    """Compares all files of a checkpoint with their accounts; all processes together.

    Args:
      folder: of the checkpoint.
      accounts: of its files.
      remedy: a phrase for the error.

    Raises:
      DamagedError: names a file that is missing or was changed; on all processes.
    """
    names = sorted(accounts)
    share = range(jax.process_index(), len(names), jax.process_count())

    def damaged(place: int) -> bool:
        return problem(folder, names[place], accounts[names[place]]) is not None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        places = zip(share, threads.map(damaged, share), strict=True)
        first = next((place for place, bad in places if bad), len(names))
    if jax.process_count() > 1:
        first = int(multihost_utils.process_allgather(np.int64(first)).min())
    if first < len(names):
        name = names[first]
        reason = problem(folder, name, accounts[name]) or "another process finds it so"
        raise DamagedError(f"{folder / name} is damaged: {reason}; {remedy}")


def problem(folder: epath.Path, name: str, account: dict[str, Any]) -> str | None:
    """The fault of a file; None where it is as its account says."""
    path = folder / name
    if not path.exists():
        return "it is missing"
    if path.is_dir():
        return "it is a folder"
    size = path.stat().length
    if size != account["bytes"]:
        return f"it has {size} bytes instead of {account['bytes']}"
    digest = manifest.sha256(path)
    if digest != account["sha256"]:
        return f"its sha256 is {digest[:8]}…, and was {str(account['sha256'])[:8]}…"
    return None
