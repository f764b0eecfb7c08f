"""Weights that a run reads and never changes: their choice, and how they are saved.

`<workdir>/frozen/<sha256>/` holds one tree. It is written once, before the first
checkpoint that refers to it by that name.
"""

import difflib
import fnmatch
import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils

from llmjax.parallel.processes import distributed
from llmjax.train.checkpoints import checksums
from llmjax.train.checkpoints.damage import DamagedError, reading

FOLDER = "frozen"
REMEDY = "copy that folder back from where it is whole"
PARAMS = "params"  # the tree of `State.frozen` with weights of the model itself

References = dict[str, str]  # name of a tree -> sha256


def matching(patterns: Collection[str], names: Collection[str]) -> set[str]:
    """Names of the weights that `optimizer.freeze` selects.

    Args:
      patterns: of `fnmatch`, against the whole name; `*` matches `/` too.
      names: of all weights of the model that may be frozen.

    Raises:
      ValueError: a pattern that matches nothing, or nothing is left to train.
    """
    frozen: set[str] = set()
    for pattern in patterns:
        matched = set(fnmatch.filter(names, pattern))
        if not matched:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            raise ValueError(
                f"optimizer.freeze has {pattern!r}, which matches no weight; close "
                f"names: {', '.join(close or sorted(names)[:3])}"
            )
        frozen |= matched
    if frozen == set(names):
        raise ValueError(
            f"optimizer.freeze={tuple(patterns)} and frozen['params'] leave none of "
            "the model's weights to train; freeze fewer"
        )
    return frozen


def split(tree: Any, names: Collection[str]) -> tuple[Any, Any]:
    """A nested dict as two: the leaves that `names` lacks, and those that it has."""
    flat = flatten_dict(tree, sep="/")
    rest = {name: leaf for name, leaf in flat.items() if name not in names}
    picked = {name: leaf for name, leaf in flat.items() if name in names}
    return unflatten_dict(rest, sep="/"), unflatten_dict(picked, sep="/")


def merge(tree: Any, other: Any) -> Any:
    """Two nested dicts as one."""
    return unflatten_dict({**flatten_dict(tree), **flatten_dict(other)})


def check_params(tree: Any, shapes: Any) -> None:
    """Raises ValueError where a caller's frozen weights are not the model's own.

    Args:
      tree: the caller's; a nested dict.
      shapes: of all weights of the model.
    """
    own = flatten_dict(shapes, sep="/")
    for name, leaf in flatten_dict(tree, sep="/").items():
        if name not in own:
            close = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
            raise ValueError(
                f"frozen['params'] has {name}, which the model has not; the closest of "
                f"its weights is {close[0]}"
            )
        if leaf.shape != own[name].shape:
            raise ValueError(
                f"frozen['params']: {name} has shape {leaf.shape}, and the model wants "
                f"{own[name].shape}"
            )


def digest(tree: Any) -> str:
    """Sha256 over every leaf's name, type, shape and bytes; the same on any mesh."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _gathered(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _gathered(leaf: Any) -> np.ndarray:
    """The whole leaf on this host; one leaf at a time, to bound the memory."""
    apart = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    if apart and not leaf.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def save(workdir: epath.Path, trees: Mapping[str, Any]) -> References:
    """Writes the trees that are not there yet; returns when all are written."""
    references = {}
    for name, tree in trees.items():
        references[name] = reference = digest(tree)
        path = workdir / FOLDER / reference
        if not path.exists() or not ocp.utils.is_checkpoint_finalized(path):
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(path, tree, force=True)
            if distributed.is_leader():
                checksums.write(path, {})
    return references


def shapes(workdir: epath.Path, name: str, reference: str) -> Any:
    """ShapeDtypeStructs of a saved tree's leaves.

    Args:
      workdir: of the run.
      name, reference: of the tree, from a checkpoint.

    Raises:
      ValueError: its folder is missing.
    """
    path = workdir / FOLDER / reference
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; it holds the frozen weights {name!r} of this "
            f"run's checkpoints: {REMEDY}"
        )
    accounts = checksums.read(path, REMEDY)
    if accounts is not None:  # what orbax says of damaged metadata has no file in it
        checksums.check(path, accounts, REMEDY)
    with reading(path, REMEDY), ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        if metadata is None or not metadata.tree:
            raise DamagedError("its metadata cannot be read")
        tree = metadata.tree
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree)


def restore(workdir: epath.Path, name: str, reference: str, abstract: Any) -> Any:
    """One tree, laid out as `abstract` says; any mesh will do.

    Args:
      workdir, name, reference: as `shapes`.
      abstract: ShapeDtypeStructs with shardings.

    Raises:
      ValueError: the bytes are not those that were saved.
    """
    path = workdir / FOLDER / reference
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    args = ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args)
    with reading(path, REMEDY), ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(path, args=args)
    if digest(tree) != reference:
        raise ValueError(
            f"{path} does not hold the frozen weights {name!r} that were saved there: "
            f"its name is no longer their sha256; {REMEDY}"
        )
    return tree


def check_same(name: str, tree: Any, saved: Any) -> None:
    """Raises ValueError where a caller's tree is not the one that a run began with.

    Args:
      name: of the tree in `State.frozen`.
      tree: the caller's; one of ShapeDtypeStructs is not compared.
      saved: the tree that the run began with; it may hold more of the model's weights.
    """
    leaves = jax.tree.leaves(tree)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return
    if name == PARAMS:
        saved = split(saved, flatten_dict(tree, sep="/"))[1]
    own, begun = digest(tree), digest(saved)
    if own != begun:
        raise ValueError(
            f"the frozen weights {name!r} are not those that this run began with: "
            f"their sha256 is {own[:12]}…, and was {begun[:12]}…; give those, or "
            "another --workdir"
        )
