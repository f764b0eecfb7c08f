"""The model of weights from elsewhere, with what a config says besides.

A field that the config leaves at its default is the weights', unless a flag sets it to
that. One that is set is kept where the weights stay what they are (dropout, a rotary
theta), or only get more rows at their ends (tokens, learned positions); any other is an
error that names it.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from llmjax.config import ModelConfig
from llmjax.hub.load import abstract
from llmjax.models.heads.language import LanguageModel
from llmjax.train.optimizers.roles import may_grow

Path = tuple[str, ...]  # of a field: ("positions", "max_length")


def merged(
    own: ModelConfig, weights: ModelConfig, path: str, said: Collection[str] = ()
) -> ModelConfig:
    """The model of the weights, with the fields that `own` sets.

    Args:
      own: the config's model.
      weights: the model of the weights at `path`.
      said: keys of the config that are set whatever they are, as "model.dropout".

    Raises:
      ValueError: a field that changes the weights; it names the key.
    """
    keys = (tuple(key.split(".")) for key in said)
    set_anyway = {tuple(at) for room, *at in keys if room == "model"}
    fields = dict(_set_fields(own, ModelConfig(), weights, set_anyway))
    if ("num_layers",) in fields and weights.groups and not own.groups:
        number = fields.pop(("num_layers",))  # groups say it too
        if number != weights.L:
            raise _refusal("num_layers", number, weights.L, path)
    model = weights
    for field, value in fields.items():
        if not _keeps_weights(weights, field, value):
            there = _get(weights, field)
            raise _refusal(".".join(field), value, there, path)
    for field, value in fields.items():
        model = _replaced(model, field, value)
    return model


def _refusal(key: str, value: Any, there: Any, path: str) -> ValueError:
    value, there = (getattr(v, "kind", repr(v)) for v in (value, there))
    return ValueError(
        f"config key 'model.{key}' is {value}, and the weights at init.path={path!r} "
        f"have {there}; leave it out, or set init.architecture='config' for a model of "
        "the config's own that takes the weights that fit it"
    )


def _set_fields(
    own: Any, default: Any, weights: Any, said: Collection[Path], at: Path = ()
) -> list[tuple[Path, Any]]:
    """The fields of `own` that are set, and are not the weights'.

    Args:
      own, default, weights: the values at a place.
      said: fields that are set whatever they are; others are where not at the default.
      at: the place.
    """
    fields: list[tuple[Path, Any]] = []
    for name in (f.name for f in dataclasses.fields(own)):
        value, usual = getattr(own, name), getattr(default, name)
        there = getattr(weights, name, usual)
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            if value != there and (value != usual or (*at, name) in said):
                fields.append(((name,), value))
            continue
        here = (*at, name)
        chosen = type(value) is not type(usual)
        named = any(path[: len(here)] == here for path in said)
        if (chosen or named) and type(value) is not type(there):
            fields.append(((name,), value))
            continue
        inner = type(value)() if chosen else usual
        for below, item in _set_fields(value, inner, there, said, here):
            whole = hasattr(there, below[0])
            fields.append(((name, *below), item) if whole else ((name,), value))
    return fields


def _get(value: Any, field: Path) -> Any:
    for name in field:
        value = getattr(value, name)
    return value


def _replaced(value: Any, field: Path, item: Any) -> Any:
    name, *below = field
    if below:
        item = _replaced(getattr(value, name), tuple(below), item)
    return dataclasses.replace(value, **{name: item})


def _keeps_weights(model: ModelConfig, field: Path, value: Any) -> bool:
    """Whether a model with another value of a field has the same weights.

    Tables may get more rows at their end.
    """
    try:
        changed, axes = abstract(LanguageModel(_replaced(model, field, value)))
    except ValueError:  # no model at all
        return False
    shapes, _ = abstract(LanguageModel(model))
    if changed.keys() != shapes.keys():
        return False
    for leaf, old in shapes.items():
        new = changed[leaf]
        grows = may_grow(axes[leaf]) and new[1:] == old[1:] and new[0] >= old[0]
        if new != old and not grows:
            return False
    return True
