"""The config's flags, `--config.a.b=c`: what they accept, and their errors."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import config_flags

from llmjax.config import keys
from llmjax.config.schema import RunConfig

NOTHING = "get_config of the config file gives None; end it with `return config`"


class _OrNone(flags.ArgumentParser):
    """Reads None, of any field, and all else as another parser does."""

    def __init__(self, parser: flags.ArgumentParser):
        self.parser = parser
        self.syntactic_help = parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        if argument == "None":
            return None
        try:
            return self.parser.parse(argument)
        except ValueError as e:
            if "invalid literal" not in str(e) and "could not convert" not in str(e):
                raise
            raise ValueError(f"accepted: {self.flag_type()}") from e

    def flag_type(self) -> str:
        return self.parser.flag_type()


def accept_none() -> None:
    """Lets `--config.a.b=None` give None; `parse` refuses it where a key has no None.

    For every config flag of the program.
    """
    parsers: dict[type, flags.ArgumentParser] = {
        int: flags.IntegerParser(),
        float: flags.FloatParser(),
        str: flags.ArgumentParser(),
    }
    for kind, parser in parsers.items():
        config_flags.register_flag_parser_for_type(kind, _OrNone(parser))


@contextlib.contextmanager
def reworded() -> Iterator[None]:
    """Rewords what ml_collections raises for an unknown key or a wrong type.

    Raises:
      ValueError: in the form of `parse`'s errors.
    """
    try:
        yield
    except flags.IllegalFlagValueError as e:
        match = re.search(r"^flag --config=(.*?): Error whilst parsing", str(e))
        if match:
            raise ValueError(_inside(match[1], str(e))) from e
        match = re.search(r"^flag --config\.([\w.]+)=(.*): .* as a ConfigDict", str(e))
        if not match:
            raise
        raise ValueError(_not_a_value(match[1], match[2])) from e
    except OSError as e:  # ml_collections raises it when the config is first read
        match = re.search(r"earlier failure to load: *(.*)", str(e), re.DOTALL)
        if not match:
            raise
        raise ValueError(f"the file of --config can't be read: {match[1]}") from e
    except (AttributeError, KeyError) as e:
        text = str(e).replace("\\'", "'")
        if "NoneType" in text:
            raise ValueError(NOTHING) from e
        match = re.search(r'Key "(?:.*\.)?(\w+)" does not exist', text) or re.match(
            r"[\"']*(\w+)[\"']*(\\n|\n|$)", text
        )
        if not match:
            _check_places(sys.argv)
            raise
        place = _place(match[1], sys.argv)
        raise ValueError(keys.unknown(match[1], RunConfig, place)) from e
    except IndexError:
        _check_places(sys.argv)
        raise
    except TypeError as e:
        match = re.search(
            r"override field '(\w+)'.*\)\. (.*) is of .*ConfigDict", str(e)
        )
        if match:
            raise ValueError(_not_a_value(match[1], match[2])) from e
        match = re.search(r"override field '(\w+)'.*type (.*) and.*type (.*)$", str(e))
        if not match:
            _check_places(sys.argv)
            raise
        raise ValueError(
            f"config key '{match[1]}' is of type {match[2]}; accepted: {match[3]}"
        ) from e


def _place(key: str, argv: list[str]) -> str | None:
    """The path by which a flag sets `key`, which the config lacks there; None: none."""
    accepted = set(keys.paths(RunConfig))
    for argument in argv:
        match = re.match(r"--?config\.([\w.]+)", argument)
        parts = match[1].split(".") if match else []
        if key in parts:
            path = ".".join(parts[: parts.index(key) + 1])
            if path not in accepted:
                return path
    return None


def _inside(file: str, text: str) -> str:
    """The message for an error with a traceback through a config file."""
    lines = re.findall(rf'File "{re.escape(file)}", line (\d+)', text)
    place = f", line {lines[-1]}" if lines else ""
    return f"--config={file}{place}: {text.strip().splitlines()[-1]}"


def _check_places(argv: list[str]) -> None:
    """Raises ValueError for a flag that sets a part of what has none."""
    accepted = set(keys.paths(RunConfig))
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if not match:
            continue
        path, _, index = match[1].partition("[")
        if index:
            raise ValueError(
                f"config key '{match[1]}' is a part of '{path}'; set all of it, in a "
                "config file"
            )
        parts = path.split(".")
        for i in range(1, len(parts)):
            above = ".".join(parts[:i])
            if above in accepted and not any(
                k.startswith(f"{above}.") for k in accepted
            ):
                raise ValueError(
                    f"config key '{path}' lies below '{above}', which holds a value; "
                    f"set '{above}'"
                )


def _not_a_value(name: str, value: str) -> str:
    """The message for a scalar given to a key (or the end of one) that is a dict."""
    paths = keys.paths(RunConfig)
    path = next(p for p in paths if f".{p}".endswith(f".{name}"))
    prefix = f"{path}."
    below = [p for p in paths if p.startswith(prefix) and "." not in p[len(prefix) :]]
    return f"config key '{path}' is {value}; accepted: {keys.a_dict(below)}"
