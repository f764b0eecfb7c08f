"""Accounts of files: json written whole, hashes, and checks against them.

A file is hashed again when its size, a time stamp or its inode is another. The ctime is
among them: the system sets it whenever a file is written, replaced or renamed, and no
program can set it back, so that `cp -p` or `touch -d` hides nothing.
"""

import datetime
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

PREPARE = "`llmjax prepare_data --config=...`"
_TICK = 0.02  # seconds: time stamps are no finer than a tick of the system's clock
REWRITE = f"delete it and run {PREPARE}"
BOOT = epath.Path("/proc/sys/kernel/random/boot_id")
_SEAL = "sha256_of_the_rest"  # key of an object's hash
_TICK = 0.02  # seconds: time stamps are no finer than a tick of the system's clock


def read_json(path: epath.Path, remedy: str = REWRITE) -> dict[str, Any]:
    """The object in a json file; {} where there is none.

    Args:
      path: of the file.
      remedy: a phrase for the error.

    Raises:
      ValueError: no json object, or not the one that `write_json` wrote; names it.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__} and no object")
        seal = value.pop(_SEAL, None)
        if seal is not None and seal != _seal(value):
            raise ValueError("its contents are not those that were written")
    except (ValueError, RecursionError, OSError) as e:
        reason = e.strerror or str(e) if isinstance(e, OSError) else str(e)
        raise ValueError(f"{path} is damaged ({reason}); {remedy}") from e
    return value


def _seal(value: Mapping[str, Any]) -> str:
    """A hash of an object, whatever its keys' order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def partial(path: epath.Path) -> epath.Path:
    """The path at which a file is written before it is moved to its place."""
    return path.parent / f".{path.name}.{os.getpid()}.partial"


def write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Writes an object with a hash of itself into a json file, whole or not at all."""
    temporary = partial(path)
    value = json.loads(json.dumps(value))  # as it will be read
    temporary.write_text(json.dumps({**value, _SEAL: _seal(value)}, indent=1))
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


def write_array(path: epath.Path, array: np.ndarray) -> None:
    """Writes an .npy file, whole or not at all."""
    temporary = partial(path)
    with temporary.open("wb") as f:
        np.save(f, array, allow_pickle=False)
    temporary.replace(path)


def read_array(path: epath.Path) -> np.ndarray:
    """The array of an .npy file, mapped where it is local."""
    if "://" not in str(path):
        return np.load(str(path), mmap_mode="r", allow_pickle=False)
    with path.open("rb") as f:
        return np.load(f, allow_pickle=False)


def sha256(path: epath.PathLike) -> str:
    """The sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with epath.Path(path).open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hashes(paths: Iterable[epath.PathLike], cache: epath.Path) -> dict[str, str]:
    """path -> sha256; reads those changed since `cache` was written, once a boot all.

    Where the system has no number of its boot, all once a day.
    """
    cached = _cached(cache)
    stamps = {str(path): _stamp(path) for path in paths}
    new = [p for p, stamp in stamps.items() if cached.get(p, {}).get("stamp") != stamp]
    if new:
        _wait_for_a_tick(stamps[p] for p in new)
        with ThreadPoolExecutor() as threads:  # hashlib lets others run meanwhile
            for path, digest in zip(new, threads.map(sha256, new), strict=True):
                cached[path] = {"stamp": stamps[path], "sha256": digest}
        cached = {path: cached[path] for path in stamps}
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, {"boot": _boot(), "files": cached})
        except OSError:
            pass  # a corpus on a disk that cannot be written is hashed each time
    return {path: cached[path]["sha256"] for path in stamps}


def _cached(cache: epath.Path) -> dict[str, Any]:
    """What `hashes` wrote since the system started; a disk may have decayed before."""
    try:
        account = read_json(cache)
    except ValueError:  # only a cache
        return {}
    return account["files"] if account.get("boot") == _boot() else {}


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return datetime.date.today().isoformat()


def verify(
    folder: epath.Path, files: Mapping[str, Mapping[str, Any]], cache: epath.Path
) -> None:
    """Checks that the files below `folder` are as their account says.

    Args:
      folder: of the manifest.
      files: path below it -> {"bytes": size, "sha256": hash}.
      cache: keeps hashes; see `hashes`.

    Raises:
      FileNotFoundError: one is not there.
      ValueError: one has another size or another content; names it and the remedy.
    """
    for name, account in files.items():
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing; delete {path.parent} and run {PREPARE}"
            )
        if path.is_dir():
            raise ValueError(f"{path} is a folder; delete it and run {PREPARE}")
        size = path.stat().length
        if size != account["bytes"]:
            how = "truncated" if size < account["bytes"] else "changed"
            raise ValueError(
                f"{path} is {how}: {size} bytes instead of {account['bytes']}; delete "
                f"{path.parent} and run {PREPARE} again"
            )
    digests = hashes([folder / name for name in files], cache)
    for name, account in files.items():
        path = folder / name
        if digests[str(path)] != account["sha256"]:
            raise ValueError(
                f"{path} is corrupted: its sha256 is {digests[str(path)][:8]}… and not "
                f"{account['sha256'][:8]}…; delete {path.parent} and run {PREPARE}"
            )


def _stamp(path: epath.PathLike) -> list[int]:
    """Size, mtime and ctime in nanoseconds, inode; of a bucket's object, the first two.

    Its mtime is that of the upload, which no program can set either.
    """
    if "://" in str(path):
        remote = epath.Path(path).stat()
        return [int(remote.length), int(remote.mtime * 1e9)]
    local = os.stat(path)
    return [local.st_size, local.st_mtime_ns, local.st_ctime_ns, local.st_ino]


def _wait_for_a_tick(stamps: Iterable[list[int]]) -> None:
    """Waits until files that are written from now on have other stamps than these."""
    age = time.time() - max(time_ns for stamp in stamps for time_ns in stamp[1:3]) / 1e9
    if 0 <= age < _TICK:
        time.sleep(_TICK - age)
