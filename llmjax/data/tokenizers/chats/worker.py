"""The process that renders chat templates for `rendering`: jinja within limits.

A script that imports nothing of the project, so that it starts fast: a line of json
comes in, a line goes out. What a template asks for beyond the limits ends in an error
here (memory, length) or in the end of this process (time), never in the caller.
"""

import functools
import json
import resource
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes, parser, sandbox, utils

LONGEST_MESSAGE = 300  # characters of an error
TEMPLATES = 16  # compiled ones that are kept


def main(seconds: float, megabytes: int, characters: int) -> None:
    """Answers until the input ends.

    Args:
      seconds: of computing, for one template; beyond them the process is killed.
      megabytes: memory of the process.
      characters: the longest text.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, amid C code too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    size = megabytes << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = _answer(line, characters)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()


def _answer(line: bytes, characters: int) -> bytes:
    """The reply to a request: {"text": …} or {"error": …}.

    "spent" says that a new process should answer the next one: this one may hold on to
    much memory, or be short of it.
    """
    reply: dict[str, Any]
    try:
        request = json.loads(line.decode("utf-8", "surrogatepass"))
        text = _compiled(request["template"]).render(request["variables"])
        if len(text) > characters:
            raise jinja2.TemplateError(
                f"it writes {len(text)} characters; accepted: at most {characters}"
            )
        del line, request
        return _dump({"text": text, "spent": _is_large()})
    except jinja2.TemplateError as e:
        reply = {"error": _message(e), "spent": _is_large()}
    except BaseException as e:  # a template can raise any
        reply = {"error": _message(e), "spent": True}
    return _dump(reply)


def _dump(reply: Mapping[str, Any]) -> bytes:
    return json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _is_large() -> bool:
    """Whether this process holds half of the memory that it may have; where the system
    doesn't count that, it sets no limit either."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return False
    return (
        pages * resource.getpagesize() > resource.getrlimit(resource.RLIMIT_AS)[0] // 2
    )


def _message(e: BaseException) -> str:
    """An error in a line, with the template's line where it is known."""
    if isinstance(e, MemoryError):
        return "it needs more memory than a template may have"
    if isinstance(e, RecursionError):
        return "it nests deeper than can be read"
    try:
        message = " ".join(str(e).split()) or type(e).__name__
    except Exception:
        message = type(e).__name__
    lines = [
        number
        for frame, number in traceback.walk_tb(e.__traceback__)
        if frame.f_code.co_filename == "<template>"
    ]
    number = getattr(e, "lineno", None) or (lines[-1] if lines else None)
    where = "" if number is None else f" (line {number})"
    return message[:LONGEST_MESSAGE] + where


@functools.lru_cache(maxsize=TEMPLATES)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> jinja2.Environment:
    """Jinja in its sandbox, set up for templates as in transformers."""
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": lambda *args, **values: dict(*args, **values),  # not the class itself
        "namespace": Namespace,
    }
    return environment


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the model's own text: its
    inside is rendered, in a scope of its own as in transformers."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # jinja says set

    def parse(self, parser: parser.Parser) -> nodes.Node:
        number = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(number)


class Namespace(utils.Namespace):
    """Jinja's, without the names that lead to Python's inside."""

    def __init__(*args: Any, **values: Any) -> None:  # a value may be called `self`
        self, *rest = args
        values = dict(*rest, **values)
        for name in values:
            Namespace.check(name)
        utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        Namespace.check(name)
        super().__setitem__(name, value)

    @staticmethod
    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.sandbox.SecurityError(
                f"a namespace has no {name!r}; accepted: names without a leading _"
            )


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Json as transformers' templates expect it: no character is escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        # a template passes any sequence; json wants a pair, and says so itself
        separators=None if separators is None else tuple(separators),  # type: ignore[arg-type]
        sort_keys=sort_keys,
    )


def refuse(message: Any) -> None:
    """Refuses a conversation; templates call it `raise_exception`."""
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
