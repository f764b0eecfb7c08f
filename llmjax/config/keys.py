"""The config's keys, read off its dataclasses, and what an error says of another."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union


def members(hint: Any) -> tuple[Any, ...]:
    """The types that a union is of, or the one type."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def variants(hint: Any) -> dict[str, type]:
    """kind -> dataclass, for a union of variants; {} for any other hint."""
    return {m.kind: m for m in members(hint) if hasattr(m, "kind")}


def hints(cls: type) -> dict[str, Any]:
    """Field -> type, of a dataclass."""
    types = typing.get_type_hints(cls)
    return {f.name: types[f.name] for f in dataclasses.fields(cls)}


def unknown(path: str, cls: type, place: str | None = None) -> str:
    """The message for a key that `cls`, a dataclass of the config, lacks.

    It names the closest key of `cls`, or of what lies below it.

    Args:
      path: the key; all before its last dot is where `cls` lies.
      cls: which lacks it.
      place: the key as it was set, below `cls`; of keys with one name the closest to it
        is named.
    """
    *parents, key = path.split(".")
    suffixes: dict[str, list[str]] = {}
    for candidate in paths(cls):
        parts = candidate.split(".")
        for i in range(len(parts)):
            suffixes.setdefault(".".join(parts[i:]), []).append(candidate)
    path = place or path
    values = choices(cls)
    if key in values and key not in suffixes:
        holder = ".".join([*parents, values[key]])
        return f"unknown config key '{path}'; {key!r} is a value of '{holder}'"
    near = difflib.get_close_matches(key, suffixes, n=5, cutoff=0.6)
    if near:
        closest = suffixes[near[0]][0]
        if place is not None:
            likely = [path for name in near for path in suffixes[name]]
            closest = max(likely, key=functools.partial(_likeness, place))
        meant = ".".join([*parents, closest])
        return f"unknown config key '{path}'; did you mean '{meant}'?"
    return f"unknown config key '{path}'; known: {', '.join(sorted(hints(cls)))}"


def _likeness(path: str, other: str) -> float:
    return difflib.SequenceMatcher(None, path, other).ratio()


def _inner(hint: Any) -> list[type]:
    """The dataclasses whose fields lie below a key of this type."""
    below = list(variants(hint).values())
    if not below and dataclasses.is_dataclass(hint):
        below = [typing.cast(type, hint)]
    return below


def paths(cls: type) -> list[str]:
    """Every key of a dataclass and below it: "model", "model.norm", …"""
    all_paths: list[str] = []
    for name, hint in hints(cls).items():
        inner = _inner(hint)
        below = ["kind"] if variants(hint) else []
        below += [path for c in inner for path in paths(c)]
        all_paths += [name, *(f"{name}.{path}" for path in dict.fromkeys(below))]
    return all_paths


def choices(cls: type) -> dict[str, str]:
    """Every name that a key of a dataclass accepts -> that key: "lion", "wandb"."""
    keys: dict[str, str] = {}
    for name, hint in hints(cls).items():
        inner = _inner(hint)
        for c in inner:
            for choice, path in choices(c).items():
                keys.setdefault(choice, f"{name}.{path}")
        for kind in variants(hint):
            keys.setdefault(kind, f"{name}.kind")
        for part in (hint, *members(hint), *typing.get_args(hint)):
            if typing.get_origin(part) is Literal:
                for choice in typing.get_args(part):
                    keys.setdefault(choice, name)
    return keys


def a_dict(keys: Iterable[str]) -> str:
    """Words for a part of the config with these keys, as an error accepts it."""
    return f"a dict; set {', '.join(keys)}"
