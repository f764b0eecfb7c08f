"""Changes of a layout, and the command-line flags for them."""

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
    for name, value in change.items():
        words += _flags(f"--config.layout.{name}", value)
        for parameter in sorted(_tuples(name) - set(_parameters(value))):
            words += _flags(f"--config.layout.{name}.{parameter}", ())
    return " ".join(words)


def _flags(path: str, value: Any) -> list[str]:
    """One value's flags: of a dataclass its kind and each of its parameters."""
    if dataclasses.is_dataclass(value):
        kind = [f"{path}.kind={value.kind}"] if hasattr(value, "kind") else []
        inner = [_flags(f"{path}.{k}", v) for k, v in _parameters(value).items()]
        return [*kind, *itertools.chain(*inner)]
    if isinstance(value, tuple):
        items = "".join(f"'{item}'," for item in value)
        return [f'"{path}=({items})"']
    return [f"{path}={value}"]


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
