"""Shared by the mains: flags, one-line errors, exit codes, and result.json.

Exit codes: 0 where all is done; 2 for a user's mistake; 130 after Ctrl-C; 141 where
nobody reads any more what is printed, as behind `| head`; 143, as of a process that
SIGTERM killed, for a run that it ended early, which is saved: the same command goes on.
Anything else is a failure.
"""

import contextlib
import errno
import json
import math
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from experiments import config_files, usage, words
from llmjax import config as cfg
from llmjax.parallel import memory
from llmjax.parallel.processes import membership, supervise

cfg.accept_none()
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The path of a config file, or the name of one of ours: pretrain/python_docs.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for everything the run writes; a path or a bucket."
)

# a path that can't be written or read, as it was given
MISTAKES = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # which the same command may survive
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
UNREAD = 141  # 128 + SIGPIPE


def launch(
    main: Callable[[], dict[str, Any] | None],
    required: tuple[str, ...] = (),
    describe: Callable[[dict[str, Any]], str] = words.of,
) -> None:
    """Runs `main` as an absl app; prints its result in words, writes it as result.json.

    A user's mistake ends in one line and exit code 2, without a traceback.

    Args:
      main: reads the flags; returns the result, or None if it prints its own.
      required: names of flags that must be set.
      describe: the words for a result.
    """

    def absl_main(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # orbax logs every step it takes, and errors that it also raises
            logging.set_verbosity(logging.FATAL)
        memory.reserve()
        with one_line_errors():
            if membership.requested():
                membership.join(config().train if CONFIG.value else cfg.TrainConfig())
            result = main()
            if result is not None and membership.rank() == 0:
                report(result, describe)
            stop_unless_finished(result)

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-help", "-h"} & set(argv[1:]):
            print(usage.text(required))
            sys.exit(0)
        with one_line_errors(), cfg.reworded():
            stray = flags.FLAGS(config_files.with_paths(argv))[1:]
            if stray:
                raise ValueError(
                    f"{stray[0]!r} belongs to no flag; a flag is --name=value, and "
                    "--help lists them"
                )
            missing = [f"--{n}" for n in required if not flags.FLAGS[n].present]
            if missing:
                verb = "is" if len(missing) == 1 else "are"
                raise ValueError(
                    f"{' and '.join(missing)} {verb} missing; --help shows an example"
                )
            return argv[:1]

    try:
        with quiet_without_reader():
            app.run(absl_main, flags_parser=parse)
    except flags.Error as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        end = SystemExit(INTERRUPTED)
        membership.leave(end)
        raise end from None
    except BaseException as e:
        membership.leave(e)
        raise


def config() -> cfg.RunConfig:
    """The parsed `--config`."""
    with cfg.reworded():
        return cfg.parse(dict(CONFIG.value.items()))


def said() -> frozenset[str]:
    """The keys of the config that flags set, as "model.dropout"."""
    return frozenset(config_flags.get_override_values(flags.FLAGS["config"]))


def stop_unless_finished(result: dict[str, Any] | None) -> None:
    """Ends the program with 143 where the result is of a run that SIGTERM ended early.

    To a scheduler it is no success, and is saved: the same command goes on.
    """
    if result is not None and not result.get("finished", True):
        sys.exit(supervise.STOPPED)


def report(result: dict[str, Any], describe: Callable[[dict[str, Any]], str]) -> None:
    """Writes a main's result, and prints it; null for a number that is not finite.

    Raises:
      ValueError: there is such a number; after all is written.
    """
    text, wrong = to_json(result)
    if WORKDIR.value is not None:
        write_result(WORKDIR.value, text)
    if shown := describe(result):
        print(shown, flush=True)
    if wrong:
        raise ValueError(f"the result has numbers that are not finite: {wrong[0]}")


def to_json(result: dict[str, Any]) -> tuple[str, list[str]]:
    """A result as JSON, and what of it is not finite: null there."""
    wrong: list[str] = []
    return json.dumps(_finite(result, "", wrong), indent=1, allow_nan=False), wrong


def _finite(value: Any, path: str, wrong: list[str]) -> Any:
    """`value` with None for what is not finite, whose paths are added to `wrong`."""
    if isinstance(value, dict):
        return {k: _finite(v, f"{path}/{k}", wrong) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v, f"{path}/{i}", wrong) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        wrong.append(f"{path[1:]} is {value}")
        return None
    return value


def write_result(workdir: str, text: str) -> None:
    """Writes `<workdir>/result.json` atomically."""
    folder = epath.Path(workdir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "result.json.part"
    part.write_text(text + "\n")
    part.replace(folder / "result.json")


@contextlib.contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Ends the program without a word where nobody reads what it prints any more."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        broken = [stream for stream in (sys.stdout, sys.stderr) if _broken(stream)]
        if not broken:
            raise  # a pipe between our own processes
        for stream in broken:  # which Python flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(UNREAD)


def _broken(stream: TextIO) -> bool:
    """Whether a stream is a pipe without a reader."""
    pipe = select.poll()
    pipe.register(stream, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line for a user's mistake, or for a disk's refusal."""
    try:
        yield
    except (ValueError, FileNotFoundError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        if e.errno not in (*MISTAKES, *FAILURES):
            raise
        reason = f"{e.filename}: {e.strerror}" if e.filename else e.strerror
        remedy = "; give another place" if e.errno in MISTAKES else ""
        print(f"error: {reason}{remedy}", file=sys.stderr)
        sys.exit(2 if e.errno in MISTAKES else 1)
