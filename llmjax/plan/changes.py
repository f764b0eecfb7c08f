"""Changes of a layout, and the flags that make them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llmjax.config import Precision, RunConfig
from llmjax.config.schema import Attention

# Fields of LayoutConfig and what they become.
Change = Mapping[str, Any]


def changed(config: RunConfig, change: Change) -> RunConfig:
    """The run with another layout.

    Raises:
      ValueError: the layout contradicts itself or the run.
    """
    layout = dataclasses.replace(config.layout, **change)
    return dataclasses.replace(config, layout=layout)


def difference(before: RunConfig, after: RunConfig) -> dict[str, Any]:
    """The fields of the layout that differ, as they are after."""
    return {
        field.name: getattr(after.layout, field.name)
        for field in dataclasses.fields(before.layout)
        if getattr(before.layout, field.name) != getattr(after.layout, field.name)
    }


def flags(change: Change) -> str:
    """The change as flags of any experiment: `--config.layout.fsdp=64`."""
    words = []
    for name, value in change.items():
        path = f"--config.layout.{name}"
        if isinstance(value, Attention | Precision):
            words.append(f"{path}.kind={value.kind}")
            for field in dataclasses.fields(value):
                words.append(f"{path}.{field.name}={getattr(value, field.name)}")
        elif isinstance(value, tuple):
            inner = "".join(f"'{item}'," for item in value)
            words.append(f'"{path}=({inner})"')
        else:
            words.append(f"{path}={value}")
    return " ".join(words)
