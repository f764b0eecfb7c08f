"""Damage of saved files, and a full disk, as opposed to any other error of theirs."""

import contextlib
import errno
import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

# what tensorstore says of files that are missing, cut off or not its own; of a disk, a
# permission or memory it says other things
DAMAGE = (
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "DATA_LOSS",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
)


# what a system says of a disk that takes nothing more
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


class DamagedError(ValueError):
    """Files are missing, cut off or foreign; names them and the remedy."""


FILES = DamagedError, FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError


@contextlib.contextmanager
def reading(path: os.PathLike[str], remedy: str) -> Iterator[None]:
    """Names the path where files are damaged; any other error passes as it is.

    Args:
      path: the checkpoint or tree that is read.
      remedy: a phrase for the error.

    Raises:
      DamagedError: files are missing, cut off or foreign.
    """
    _mute_abandoned()
    try:
        yield
    except Exception as e:
        reason = _damage(e)
        if reason is None:
            raise
        raise DamagedError(
            f"{os.fspath(path)} cannot be read: {reason[:300]}. It is truncated or "
            f"foreign; {remedy}"
        ) from e


def _damage(error: BaseException | None) -> str | None:
    """The first line of an error about damaged files; None for any other error."""
    while error is not None:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, FILES) or text.startswith(DAMAGE):
            return text
        error = error.__cause__
    return None


@contextlib.contextmanager
def writing(path: os.PathLike[str]) -> Iterator[None]:
    """Says in one line that a disk is full or can't be written; other errors pass.

    Raises:
      OSError: of that kind; names the path, and is not caused by another.
    """
    _mute_abandoned()
    try:
        yield
    except Exception as e:
        number = _refusal(e)
        if number is None:
            raise
        raise OSError(
            number,
            f"{os.strerror(number)}: a checkpoint was not saved in {os.fspath(path)}; "
            "the same command goes on from the last that was",
        ) from None


def _refusal(error: BaseException | None) -> int | None:
    """The number of a disk's error; None for any other error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            return error.errno
        by_tensorstore = re.search(r"\[os_error_code='(\d+)'", str(error))
        if by_tensorstore and int(by_tensorstore[1]) in REFUSALS:
            return int(by_tensorstore[1])
        error = error.__cause__ or error.__context__
    return None


@functools.cache
def _mute_abandoned() -> None:
    """Keeps what orbax abandoned from printing tracebacks, from now on.

    Where one array of many cannot be read or written, orbax closes the event loop under
    the others; each of them then ends, on a thread of its own, in an exception that
    nobody can catch and that says nothing about the checkpoint.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        if not closed and not (code and "orbax" in code.co_filename):
            report(unraisable)

    sys.unraisablehook = hook
