"""Chat templates in a process of their own, with bounds on time, memory and length.

A template comes with a stranger's model. Jinja's sandbox keeps it from files and code,
but not from `'%0999999999d' % 1`, nested loops, deep macros or filters that grow a
text, of which there are too many to count one by one inside an interpreter. So the
kernel counts: `worker` runs under a limit of memory and a timer, started once and
used again (about 0.1 ms a conversation), and the caller sees a text or a ValueError.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECONDS = 1.0  # of computing, for one conversation; a long one takes 0.01
MEGABYTES = 400
CHARACTERS = 1 << 24  # a text of a hundred books
PATIENCE = 60.0  # seconds of waiting, on a machine that does much else

_SCRIPT = Path(__file__).with_name("worker.py")


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text that jinja makes of a template.

    Args:
      template: jinja, as in transformers.
      variables: name -> what json can say, and mappings and sequences of it.

    Raises:
      ValueError: the template is broken, refuses the variables or needs more than the
        bounds; or a variable that json can't say.
    """
    request = _dump({"template": template, "variables": variables})
    with _lock:
        return _ask(request)


def _dump(request: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(request, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as e:
        raise ValueError(f"a variable is nothing that json can say: {e}") from e
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _plain(value: Any) -> Any:
    """What json writes in place of a value that it doesn't know."""
    if isinstance(value, Mapping):
        return dict(value)
    if callable(getattr(value, "tolist", None)):  # numpy's
        return value.tolist()
    raise TypeError(
        f"it holds a {type(value).__name__}; accepted: texts, numbers, lists and dicts "
        "(of a function its JSON schema)"
    )


# --- the process ---------------------------------------------------------------------

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def _ask(request: bytes) -> str:
    """One request to the process, which is started where there is none."""
    global _process
    process = _process or _start()
    _process = None  # until all went well: half an answer is nobody's
    try:
        reply = _exchange(process, request)
    except BaseException:
        _end(process)
        raise
    if reply["spent"]:
        _end(process)
    else:
        _process = process
    if "error" in reply:
        raise ValueError(reply["error"])
    return reply["text"]


def _start() -> subprocess.Popen[bytes]:
    # -P: the modules beside the script are not its own; a session: no signal from keys
    limits = (str(SECONDS), str(MEGABYTES), str(CHARACTERS))
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", str(_SCRIPT), *limits],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> Mapping[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    line = b""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise ValueError(f"it gives no answer within {PATIENCE:.0f} seconds")
        line = process.stdout.readline()
    if line:
        return json.loads(line.decode("utf-8", "surrogatepass"))
    code = process.wait()
    if code == -signal.SIGPROF:
        raise ValueError(f"it computes for more than {SECONDS:g} s")
    raise ValueError(
        f"the process that renders it ended with code {code}; it may nest too deep, or "
        f"need more than {MEGABYTES} MB"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # a request that was never read
            if pipe is not None:
                pipe.close()
    process.wait()


@atexit.register
def close() -> None:
    """Ends the process; the next conversation starts another."""
    global _process
    with _lock:
        if _process is not None:
            _end(_process)
        _process = None


def _forget() -> None:
    """A fork has a process of its own: two must not write to one."""
    global _process, _lock
    _process, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
