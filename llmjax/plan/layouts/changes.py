"""Changes of a layout, as flags for the command line and lines of a config file."""

import dataclasses
import itertools
import typing
from collections.abc import Mapping
from typing import Any

from llmjax.config import LayoutConfig, RunConfig

# Field of LayoutConfig -> its new value.
Change = Mapping[str, Any]


def changed(config: RunConfig, change: Change) -> RunConfig:
    """The run with another layout.

    Raises:
      ValueError: the layout contradicts itself or the run.
    """
    layout = dataclasses.replace(config.layout, **change)
    return dataclasses.replace(config, layout=layout)


def difference(before: RunConfig, after: RunConfig) -> dict[str, Any]:
    """The fields of the layout that differ, with their values in `after`."""
    return {
        field.name: getattr(after.layout, field.name)
        for field in dataclasses.fields(before.layout)
        if getattr(before.layout, field.name) != getattr(after.layout, field.name)
    }


def flags(change: Change) -> str:
    """The change as flags for any main: `--config.layout.fsdp=64`."""
    words = []
    for path, value in _settings(change):
        if isinstance(value, tuple):
            items = "".join(f"'{item}'," for item in value)
            words.append(f'"--{path}=({items})"')
        else:
            words.append(f"--{path}={value}")
    return " ".join(words)


def lines(change: Change) -> str:
    """The change as lines for a config file: `config.layout.fsdp = 64`."""
    return "\n".join(f"{path} = {value!r}" for path, value in _settings(change))


def _settings(change: Change) -> list[tuple[str, Any]]:
    """Keys of a ConfigDict, as config.layout.fsdp, and their new values."""
    settings = []
    for name, value in change.items():
        path = f"config.layout.{name}"
        settings += _parts(path, value)
        emptied = sorted(_tuples(name) - set(_parameters(value)))
        settings += [(f"{path}.{parameter}", ()) for parameter in emptied]
    return settings


def _parts(path: str, value: Any) -> list[tuple[str, Any]]:
    """One value's keys: of a dataclass its kind and each of its parameters."""
    if not dataclasses.is_dataclass(value):
        return [(path, value)]
    kind = [(f"{path}.kind", value.kind)] if hasattr(value, "kind") else []
    inner = [_parts(f"{path}.{k}", v) for k, v in _parameters(value).items()]
    return [*kind, *itertools.chain(*inner)]


def _parameters(value: Any) -> dict[str, Any]:
    """A dataclass's fields that are set; {} of any other value."""
    if not dataclasses.is_dataclass(value):
        return {}
    values = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {name: value for name, value in values.items() if value is not None}


def _tuples(name: str) -> set[str]:
    """Parameters of a layout field's kinds that are tuples.

    Those of another kind than the new one are emptied, in case the config sets them.
    """
    kinds = typing.get_args(typing.get_type_hints(LayoutConfig)[name])
    return {
        field.name
        for kind in kinds
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
        if isinstance(field.default, tuple)
    }
