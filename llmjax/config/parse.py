"""From a ConfigDict to the frozen dataclasses and back; errors name the remedy."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import ml_collections
from ml_collections import config_dict

from llmjax.config import keys
from llmjax.config.checks import FLOAT_MAX, shown
from llmjax.config.schema import RunConfig


def default() -> ml_collections.ConfigDict:
    """A locked ConfigDict of every field of `RunConfig` at its default.

    Config files start from it. A variant is a sub-dict with its `kind` and the
    parameters of all kinds; one that is None has its kind's own default.
    """
    config = _describe(RunConfig())
    config.lock()
    return config


def parse(config: Mapping[str, Any] | ml_collections.ConfigDict) -> RunConfig:
    """The `RunConfig` of a ConfigDict, or of a dict from `to_dict`.

    Raises:
      ValueError: an unknown key, a wrong type, a value that is not accepted, or a
        parameter that its variant does not read; each names the key and the remedy.
    """
    return _parse(RunConfig, config, "")


def to_dict(value: Any) -> Any:
    """Plain dicts, lists and scalars for json; `parse` reads them back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}
        return kind | {
            f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [to_dict(v) for v in value]
    return value


def _describe(value: Any) -> ml_collections.ConfigDict:
    out = ml_collections.ConfigDict()
    for name, hint in keys.hints(type(value)).items():
        item = getattr(value, name)
        if variants := keys.variants(hint):
            out[name] = _describe_variant(variants, item)
        elif dataclasses.is_dataclass(item):
            out[name] = _describe(item)
        elif item is None:
            out[name] = config_dict.placeholder(_scalar(hint))
        else:
            out[name] = item
    return out


def _describe_variant(
    variants: dict[str, type], item: Any
) -> ml_collections.ConfigDict:
    """A sub-dict with the parameters of all kinds; `item` None leaves `kind` empty."""
    sub = ml_collections.ConfigDict()
    sub.kind = config_dict.placeholder(str) if item is None else item.kind
    several: dict[str, dict[str, type]] = {}
    for cls in variants.values():
        for key, inner in keys.hints(cls).items():
            if nested := keys.variants(inner):
                several[key] = several.get(key, {}) | nested  # of several kinds' own
                sub[key] = _describe_variant(several[key], None)
            elif dataclasses.is_dataclass(inner):
                sub[key] = _describe_part(typing.cast(type, inner), None)
            else:
                sub[key] = config_dict.placeholder(_scalar(inner))
    for f in dataclasses.fields(item) if item is not None else ():
        value = getattr(item, f.name)
        if value != f.default:
            nested = keys.variants(keys.hints(type(item))[f.name])
            if nested:
                sub[f.name] = _describe_variant(nested, value)
            elif dataclasses.is_dataclass(value):
                sub[f.name] = _describe_part(type(value), value)
            else:
                sub[f.name] = value
    return sub


def _describe_part(cls: type, item: Any) -> ml_collections.ConfigDict:
    """A plain dataclass inside a variant: its fields, empty where not `item`'s own."""
    sub = ml_collections.ConfigDict()
    for f in dataclasses.fields(cls):
        sub[f.name] = config_dict.placeholder(_scalar(keys.hints(cls)[f.name]))
        if item is not None and getattr(item, f.name) != f.default:
            sub[f.name] = getattr(item, f.name)
    return sub


def _scalar(hint: Any) -> type:
    """The type of a field's values in a ConfigDict."""
    hint = next(m for m in keys.members(hint) if m is not type(None))
    if typing.get_origin(hint) is Literal:
        return type(typing.get_args(hint)[0])
    return typing.get_origin(hint) or hint


def _parse(hint: Any, value: Any, path: str) -> Any:
    if variants := keys.variants(hint):
        if value is None and type(None) in keys.members(hint):
            return None
        return _parse_variant(variants, value, path)
    if dataclasses.is_dataclass(hint):
        _require_mapping(value, path, keys.hints(typing.cast(type, hint)))
        return _build(typing.cast(type, hint), dict(value), path)
    choices = keys.members(hint)
    if value is None and type(None) in choices:
        return None
    (hint,) = (m for m in choices if m is not type(None))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"config key '{path}' is {value!r}; {_accepted(args)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(path, value, "a tuple")
        return tuple(_parse(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > FLOAT_MAX:
            raise ValueError(
                f"config key '{path}' is {shown(value)}; accepted: a float of up to "
                f"{FLOAT_MAX}"
            )
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong_type(path, value, hint.__name__)
    return value


def _parse_variant(variants: dict[str, type], value: Any, path: str) -> Any:
    parameters = [key for cls in variants.values() for key in keys.hints(cls)]
    _require_mapping(value, path, dict.fromkeys(["kind", *parameters]))
    fields = _filled(value)
    kind = fields.pop("kind", None)
    if kind not in variants:
        raise ValueError(
            f"config key '{path}.kind' is {kind!r}; {_accepted(tuple(variants))}"
        )
    cls = variants[kind]
    for key in list(fields):
        if key not in keys.hints(cls):
            readers = [k for k, v in variants.items() if key in keys.hints(v)]
            if not readers:
                raise ValueError(keys.unknown(f"{path}.{key}", cls))
            if fields[key] in ((), []):  # a flag can empty a tuple, not remove it
                del fields[key]
                continue
            raise ValueError(
                f"config key '{path}.{key}' is not read by kind {kind!r}, only by "
                f"{', '.join(map(repr, readers))}; set it to None, or change "
                f"'{path}.kind'"
            )
    return _build(cls, fields, path)


def _empty(value: Any) -> bool:
    """Whether no value is set here: None, or a dict of such values."""
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
        return all(_empty(v) for v in dict(value).values())
    return value is None


def _filled(value: Any) -> dict[str, Any]:
    """The values that are set, of a variant and of the dataclasses inside it."""
    return {
        k: _filled(v) if isinstance(v, (Mapping, ml_collections.ConfigDict)) else v
        for k, v in dict(value).items()
        if not _empty(v)
    }


def _build(cls: type, fields: dict[str, Any], path: str) -> Any:
    hints = keys.hints(cls)
    prefix = f"{path}." if path else ""
    for key in fields:
        if key not in hints:
            raise ValueError(keys.unknown(prefix + key, cls))
    values = {k: _parse(hints[k], v, prefix + k) for k, v in fields.items()}
    for f in dataclasses.fields(cls):
        missing = f.default is dataclasses.MISSING
        if missing and f.name not in values:
            raise ValueError(f"config key '{prefix}{f.name}' is missing; give it")
    try:
        return cls(**values)
    except ValueError as e:
        raise ValueError(f"config {path or 'as a whole'}: {e}") from None


def _require_mapping(value: Any, path: str, inner: Iterable[str]) -> None:
    if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
        raise _wrong_type(path, value, keys.a_dict(f"{path}.{key}" for key in inner))


def _wrong_type(path: str, value: Any, accepted: str) -> ValueError:
    return ValueError(
        f"config key '{path}' is {value!r} of type {type(value).__name__}; "
        f"accepted: {accepted}"
    )


def _accepted(choices: tuple[Any, ...]) -> str:
    return f"accepted: {', '.join(map(repr, choices))}"
