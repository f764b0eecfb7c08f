"""One run at a time in a workdir, or at a file."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from llmjax.parallel.processes import distributed

FILE = ".lock"
UNABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Holds the lock of a workdir; of several processes, the first does for all.

    The system lets go of it however the process ends. A bucket, and some network disks,
    have no locks: this is said, and nobody watches.

    Raises:
      ValueError: another run holds it; names its process and host.
    """
    with contextlib.ExitStack() as stack:
        holder = _acquire_in(workdir, stack) if distributed.is_leader() else None
        free = holder is None
        if jax.process_count() > 1:
            free = bool(multihost_utils.broadcast_one_to_all(np.int32(free)))
        if not free:
            raise ValueError(
                f"{workdir} is in use by {holder or 'another run'}: two runs would "
                "overwrite each other; end that one, or give another --workdir"
            )
        yield


def _acquire_in(workdir: epath.Path, stack: contextlib.ExitStack) -> str | None:
    """Takes the lock of a workdir, unless that is a bucket, which has none."""
    if "://" in str(workdir):
        _say(workdir)
        return None
    return acquire(Path(workdir / FILE), stack)


def acquire(path: Path, stack: contextlib.ExitStack) -> str | None:
    """Takes a file's lock until `stack` ends; returns who has it where another has.

    Args:
      path: of the lock alone; whoever has it may remove it.
      stack: ends at the latest with the process, however that ends.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 300, 0).decode(errors="replace").strip()
            return holder or "another run"
        except OSError as e:
            if e.errno not in UNABLE:
                raise
            _say(path.parent)
            return None
        if _is(file, path):  # not removed by who had it, between the two lines above
            break
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return None


def _is(file: int, path: Path) -> bool:
    """Whether an open file still is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _say(folder: Path | epath.Path) -> None:
    print(
        f"{folder} is on storage without locks: see to it that no other run has it",
        file=sys.stderr,
    )
