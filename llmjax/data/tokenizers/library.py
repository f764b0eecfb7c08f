"""Errors of the library `tokenizers`."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def library_errors(problem: str) -> Iterator[None]:
    """Turns every error of the library `tokenizers` into a ValueError that begins with
    `problem`; it has no type of its own, and where it panics not even an Exception."""
    try:
        yield
    except ValueError:
        raise
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        raise ValueError(f"{problem}: {str(e)[:200]}") from e
