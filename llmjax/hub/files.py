"""Tensors in files, behind one small interface: a shape, a type, slices.

Opening reads headers only. All of a header is checked against the file's size here or
by the library that reads it, so that no number in a file makes us allocate.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

Shape = tuple[int, ...]
Slices = tuple[slice, ...]
FLOATS = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_JSON = 1 << 26  # bytes; the largest real index has a tenth of it


def float_type(dtype: Any) -> np.dtype:
    """The type of weights that `dtype` names.

    Raises:
      ValueError: it is none of `FLOATS`; with their names.
    """
    try:
        chosen = np.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen not in FLOATS.values():
        accepted = ", ".join(d.name for d in FLOATS.values())
        raise ValueError(f"dtype is {dtype!r}; accepted: {accepted}")
    return chosen


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, not yet read.

    Attributes:
      file: the file that holds it.
      shape: shape in the file.
      kind: type, by the file's own name.
      dtype: type of the arrays that `read` gives; None: no weights that we can read.
      read: one slice with start and stop per axis -> array.
    """

    file: Path
    shape: Shape
    kind: str
    dtype: np.dtype | None
    read: Callable[[Slices], np.ndarray]


def open_folder(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of `model.safetensors`, or of the shards that its index names.

    Raises:
      ValueError: no such file, a broken one, or an index that does not fit its shards;
        each with the file's name.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    if single.is_file():
        tensors, aliases = open_safetensors(single)
        return aliases | tensors
    if not index.is_file():
        raise ValueError(_no_tensors(folder))
    files = _weight_map(index)
    tensors, aliases = dict[str, StoredTensor](), dict[str, StoredTensor]()
    for name in sorted(set(files.values())):
        shard, others = open_safetensors(folder / name)
        for tensor in shard:
            if files.get(tensor) != name:
                raise ValueError(
                    f"{folder / name} holds {tensor!r}, which {index.name} puts in "
                    f"{files.get(tensor)!r}; download both again"
                )
        tensors, aliases = tensors | shard, aliases | others
    for tensor, name in files.items():
        if tensor not in tensors:
            raise ValueError(
                f"{folder / name} lacks {tensor!r}, which {index.name} puts there; "
                "download both again"
            )
    return aliases | tensors


def _weight_map(index: Path) -> dict[str, str]:
    """An index's tensor -> name of the file beside it."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{index} has no 'weight_map' of names to files")
    for tensor, name in files.items():
        plain = isinstance(name, str) and Path(name).name == name
        if not plain or "\\" in name or "\0" in name or name[:1] == ".":
            raise ValueError(
                f"{index} puts {tensor!r} in {name!r}; accepted: the plain name of a "
                "safetensors file beside it"
            )
        if not name.endswith(".safetensors"):
            raise ValueError(f"{index} puts {tensor!r} in {name!r}. {_no_pickle(name)}")
    return files


def open_safetensors(
    path: Path,
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """The tensors of one file, and those of them that have a further name.

    safetensors' `save_model` writes a shared tensor once; `__metadata__` maps its other
    names to the one that was kept.

    Raises:
      ValueError: the file is missing, or no whole safetensors file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; download it again")
    try:
        # checks the header's length, every offset, gaps, overlaps and sizes
        file = safetensors.safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as e:
        raise ValueError(
            f"{path} cannot be read as safetensors: {str(e)[:300]}. It is truncated or "
            "foreign; download it again"
        ) from e
    tensors = {}
    for name, view in slices.items():
        shape, kind = tuple(view.get_shape()), view.get_dtype()
        read = functools.partial(_read, path, view)
        tensors[name] = StoredTensor(path, shape, kind, FLOATS.get(kind), read)
    names = (file.metadata() or {}).items()
    return tensors, {name: tensors[kept] for name, kept in names if kept in tensors}


def _read(path: Path, view: Any, index: Slices) -> np.ndarray:
    shape = tuple(view.get_shape())
    if 0 in shape:  # safetensors refuses a slice of nothing
        return np.zeros(shape, np.float32)[index]
    try:
        return np.asarray(view[index])
    except safetensors.SafetensorError as e:
        raise ValueError(f"{path} cannot be read at {index}: {e}") from e


def read_json(path: Path) -> dict[str, Any]:
    """The dict of a json file.

    Raises:
      ValueError: the file is missing, too large, broken, or holds no dict.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a folder as the hub has it")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path} is larger than {MAX_JSON} bytes; it is no such file")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is not json: {str(e)[:200]}") from e
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; accepted: a dict")
    return value


def _no_tensors(folder: Path) -> str:
    """The error for a folder without safetensors."""
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        return f"{folder} has {pickles[0]} and no safetensors. {_no_pickle(pickles[0])}"
    return f"{folder} has neither model.safetensors nor {INDEX}"


def _no_pickle(name: str) -> str:
    """The reason why a pickle is not read, and the way out."""
    return (
        f"{name} may be a pickle, which can run any code and is not read here; where "
        "you trust it, convert it with transformers: "
        "AutoModel….from_pretrained(path).save_pretrained(new_path), which writes "
        "safetensors"
    )


def refuse(path: Path) -> ValueError:
    """The error for a file that is no model we read."""
    if path.suffix in PICKLES:
        return ValueError(f"{path} is not read. {_no_pickle(path.name)}")
    return ValueError(
        f"{path} is no model; give a folder with config.json and safetensors, a .gguf "
        "file, or package:NAME"
    )
