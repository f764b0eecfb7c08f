"""A model from the hub's formats, each weight checked before anything is allocated.

Our leaf is stacked over layers, the hub has one tensor a layer: a device's block of the
leaf is put together from the slices of tensors that it needs and no others, leaf after
leaf, so that the host holds one block besides what is loaded.
"""

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from llmjax.hub import files, gguf
from llmjax.hub.binding import Bound, bind
from llmjax.hub.files import Shape, StoredTensor
from llmjax.hub.shared import stored_names
from llmjax.hub.stored_model import StoredModel, naming, newer_name, open_model
from llmjax.hub.table import Table
from llmjax.parallel.axes import MESH_AXES, Axes, param_axes, tree_shardings


def load(
    path: str | Path, *, mesh: Mesh | None = None, dtype: Any = None
) -> tuple[Any, Any]:
    """The model and the parameters at `path`, every tensor accounted for.

    Args:
      path: a folder with config.json and safetensors, a .gguf file, or package:NAME.
      mesh: the parameters are laid on it by `llmjax.parallel.axes`, each process
        reading its devices' part; None: on one device.
      dtype: type of the parameters; None: as stored.

    Raises:
      ValueError: a tensor that is missing, extra, mis-shaped or mis-typed, a config
        that is not understood, or a broken file. Each names itself, the file, the
        family and the remedy.
    """
    stored = open_model(path)
    model = stored.model()
    return model, read_params(stored, model, mesh=mesh, dtype=dtype)


# shapes of what any model reads
BATCH = dict.fromkeys(  # all that a model may read
    ("tokens", "encoder_tokens", "entities"), jax.ShapeDtypeStruct((1, 1), jnp.int32)
)

# --- the check -----------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def abstract(model: nn.Module) -> tuple[dict[str, Shape], dict[str, Axes]]:
    """Shapes and logical axes of a model's leaves by path, with nothing computed.

    Raises:
      ValueError: a config that no model can have.
    """
    try:
        params, axes = param_axes(model, BATCH)
    except Exception as e:  # jax has many for sizes beyond its own
        raise ValueError(f"no model can be made of its config: {e}") from e
    leaves = traverse_util.flatten_dict(params, sep="/")
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    return shapes, traverse_util.flatten_dict(axes, sep="/")


def check(model: StoredModel, shapes: Mapping[str, Shape]) -> list[Bound]:
    """The table's entries by the file's own names, after a check of every tensor.

    Args:
      model: the model on disk.
      shapes: path -> shape of our leaves.

    Raises:
      ValueError: the first tensor that is missing, mis-shaped, mis-typed or extra.
    """
    tensors, table = model.tensors, model.table
    family = f"the family {model.family.name}"
    bound = naming(model.path, lambda: bind(table, shapes))
    named = stored_names(table, tensors)
    bound = [dataclasses.replace(b, name=named(b.name)) for b in bound]
    read: dict[str, StoredTensor] = {}
    for entry in bound:
        for index in entry.indices():
            name = entry.tensor(index)
            stored = tensors.get(name)
            if stored is None:
                raise ValueError(
                    f"{model.path} lacks the tensor {name!r} {entry.shape}, which "
                    f"{family} needs for our {', '.join(entry.paths)}"
                )
            if stored.shape != entry.shape:
                raise ValueError(
                    f"{stored.file}: tensor {name!r} has the shape {stored.shape}; "
                    f"{family} with this config needs {entry.shape}"
                )
            if stored.dtype is None:
                raise ValueError(
                    f"{stored.file}: tensor {name!r} is of type {stored.kind}; "
                    f"{family} needs one of {', '.join(files.FLOATS)}, or in GGUF a "
                    "quantised one that the library gguf dequantises"
                )
            read[name] = stored
    aliases = {id(stored) for stored in read.values()}
    for name, stored in tensors.items():
        if id(stored) not in aliases and not _ignored(name, table):
            raise ValueError(
                f"{stored.file} has the tensor {name!r} {stored.shape}, which {family} "
                f"with this config has no use for; {_stranger(name)}"
            )
    return bound


def _stranger(name: str) -> str:
    """The reason why a tensor may be there that the model has no use for."""
    if re.match(r"(score|classifier|qa_outputs|classification_head)\b", name):
        return (
            "it is a classifier's: name its class in config.json's architectures, such "
            'as ["BertForSequenceClassification"], or have transformers save the body '
            "alone, AutoModel.from_pretrained(path).save_pretrained(new_path)"
        )
    return "is config.json another model's?"


def _ignored(name: str, table: Table) -> bool:
    names = name, table.base + name
    patterns = (*table.ignored, *(re.escape(name) for name, _ in table.repeats))
    return any(re.fullmatch(p, n) for p in patterns for n in names)


class Account(NamedTuple):
    """What became of the tensors of a model's files, by their names there.

    Attributes:
      read: how many hold weights of the model.
      older: names that older files have, which were read by the newer ones.
      copies: names of a tensor that has another one, such as a tied head.
      unread: tensors that hold nothing of the model, such as buffers.
    """

    read: int
    older: tuple[str, ...]
    copies: tuple[str, ...]
    unread: tuple[str, ...]


def account(model: StoredModel, bound: Sequence[Bound]) -> Account:
    """What became of a model's tensors; `bound` is what `check` gave."""
    path, read = model.path, set[int]()
    theirs = gguf.open_gguf(path)[1] if path.is_file() else files.open_folder(path)
    for entry in bound:
        read |= {id(model.tensors[entry.tensor(index)]) for index in entry.indices()}
    newer = {name: newer_name(name, model.table) for name in theirs}
    there = [name for name, new in newer.items() if new in model.tensors]
    return Account(
        len(read),
        tuple(name for name, new in newer.items() if name != new),
        tuple(name for name in newer if name not in there),
        tuple(n for n in there if id(model.tensors[newer[n]]) not in read),
    )


# --- reading -------------------------------------------------------------------------


def read_params(
    stored: StoredModel,
    model: nn.Module,
    *,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> Any:
    """The parameters of `model` from `stored`; see `load`."""
    shapes, axes = abstract(model)
    bound = check(stored, shapes)
    if mesh is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        shardings: dict[str, Sharding] = dict.fromkeys(shapes, device)
    else:
        if missing := [axis for axis in MESH_AXES if axis not in mesh.axis_names]:
            raise ValueError(
                f"the mesh has the axes {', '.join(map(repr, mesh.axis_names))} and "
                f"lacks {missing[0]!r}; give one of llmjax.parallel.mesh.make_mesh, "
                f"with {', '.join(map(repr, MESH_AXES))}"
            )
        structs = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
        shardings = tree_shardings(structs, axes, mesh)
    # all types are settled before the first weight is read
    reads = [
        (path, entry, i, _dtype(stored, entry, dtype))
        for entry in bound
        for i, path in enumerate(entry.paths)
    ]
    leaves = {}
    for path, entry, i, leaf_dtype in reads:
        block = functools.partial(_block, stored.tensors, entry, i, leaf_dtype)
        leaves[path] = _array(shapes[path], shardings[path], block)
    return traverse_util.unflatten_dict(leaves, sep="/")


def _dtype(model: StoredModel, entry: Bound, dtype: Any) -> np.dtype:
    """The type of an entry's leaves: `dtype`, or the one type that is stored."""
    if dtype is not None:
        return files.float_type(dtype)
    stored = [model.tensors[entry.tensor(index)] for index in entry.indices()]
    kinds = {s.dtype for s in stored if s.dtype is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"{stored[0].file}: the tensors {entry.name!r} of the family "
            f"{model.family.name} are of types {sorted(map(str, kinds))}, and our "
            f"leaf {entry.paths[0]} of one; say which with dtype="
        )
    return kinds.pop()


def _array(
    shape: Shape, sharding: Sharding, block: Callable[[Sequence[slice]], np.ndarray]
) -> jax.Array:
    """A leaf from the blocks of this process's devices, each block read once."""
    devices = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        ranges = (s.indices(n)[:2] for s, n in zip(index or (), shape, strict=True))
        devices[tuple(ranges)].append(device)
    arrays: list[jax.Array] = []
    for key, owners in devices.items():
        host = block([slice(*r) for r in key])
        arrays += [jax.device_put(host, device) for device in owners]
        jax.block_until_ready(arrays)  # or blocks would pile up behind the copies
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _block(
    tensors: Mapping[str, StoredTensor],
    entry: Bound,
    leaf: int,
    dtype: np.dtype,
    index: Sequence[slice],
) -> np.ndarray:
    """One block of a leaf, put together from the tensors' slices."""
    count, view = len(entry.stacked), entry.views[leaf]
    stacked, inner = index[:count], index[count:]
    out = np.empty([s.stop - s.start for s in index], dtype)
    for at in itertools.product(*(range(s.start, s.stop) for s in stacked)):
        where = tuple(a - s.start for a, s in zip(at, stacked, strict=True))
        out[where] = view.read(tensors[entry.tensor(at)].read, inner)
    return out
