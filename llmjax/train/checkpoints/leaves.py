"""Leaves of a saved state beside those of a run."""

import os
from typing import Any

import jax


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape)
        for p, leaf in leaves
    }


def check(expected: Any, tree: Any, where: os.PathLike[str]) -> None:
    """Raises ValueError where a saved tree has other leaves or shapes.

    Args:
      expected: the run's own.
      tree: what was saved.
      where: of the checkpoint.
    """
    own, saved = shapes(expected), shapes(tree)
    for name in sorted(own.keys() | saved.keys()):
        if name not in saved:
            problem = f"lacks {name} {own[name]}"
        elif name not in own:
            problem = f"has {name} {saved[name]}, which this run does not"
        elif own[name] != saved[name]:
            problem = f"has {name} {saved[name]}; this run has {own[name]}"
        else:
            continue
        raise ValueError(
            f"{os.fspath(where)} {problem}; use the config that it was saved with, or "
            "another workdir"
        )
