"""Damage of saved files, as opposed to any other error of reading them."""

import contextlib
import functools
import json
import os
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
    _mute_abandoned_reads()
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


@functools.cache
def _mute_abandoned_reads() -> None:
    """Keeps reads that orbax abandoned from printing tracebacks, from now on.

    Where one array of many cannot be read, orbax closes the event loop under the
    others; each of them then ends, on a thread of its own, in an exception that nobody
    can catch and that says nothing about the checkpoint.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        if not closed and not (code and "orbax" in code.co_filename):
            report(unraisable)

    sys.unraisablehook = hook
