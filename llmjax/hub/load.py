"""A model from the hub's formats, each weight checked before anything is allocated.

Our leaf is stacked over layers, theirs are one tensor a layer: a device's block of the
leaf is put together from the slices of their tensors that it needs and no others, leaf
after leaf, so that the host holds one block besides what is loaded.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from llmjax import config as config_lib
from llmjax.config import ModelConfig
from llmjax.hub import families, files, gguf, packages
from llmjax.hub.files import Stored
from llmjax.hub.table import Bound, Family, Shape, Table, bind
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.replaced_tokens import Discriminator
from llmjax.parallel.axes import Axes, param_axes, tree_shardings

MAX_LAYERS = 10_000  # more than any, few enough to list them
DISTANCES = ("window", "original_length", "max_distance", "block", "local", "stride")
MAX_NUMBER = 2**31 - 1  # of any size in a config: an index is an int32

HEADS: dict[str, Any] = {c.__name__: c for c in (LanguageModel, Encoder, Discriminator)}


@dataclasses.dataclass(frozen=True)
class Source:
    """What a path holds, with headers read and nothing else.

    Attributes:
      path: the folder or file.
      family: the model's.
      head: which of `HEADS` it is.
      cfg: the model's config.
      table: the names of its tensors, in this format.
      tensors: what is there, by name.
    """

    path: Path
    family: Family
    head: str
    cfg: ModelConfig
    table: Table
    tensors: Mapping[str, Stored]

    def model(self) -> nn.Module:
        """The module, without weights."""
        return HEADS[self.head](self.cfg)


def load(
    path: str | Path, *, mesh: Mesh | None = None, dtype: Any = None
) -> tuple[Any, Any]:
    """The model and the parameters at `path`, every tensor accounted for.

    Args:
      path: a folder with config.json and safetensors, a .gguf file, or package:NAME.
      mesh: the parameters are laid on it by `llmjax.parallel.axes`, each process
        reading its devices' part; None: on one device.
      dtype: what to convert to; None: as stored.

    Raises:
      ValueError: a tensor that is missing, extra, mis-shaped or mis-typed, a config
        that is not understood, or a file that is not what it should be. Each names
        itself, the file, the family and the remedy.
    """
    source = open_source(path)
    model = source.model()
    return model, read_params(source, model, mesh=mesh, dtype=dtype)


def open_source(path: str | Path) -> Source:
    """Reads the config and the headers at `path`; arguments and errors as `load`."""
    if str(path).startswith(packages.PREFIX):
        path = packages.fetch(str(path))
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _open_gguf(path)
    if not path.is_dir():
        raise files.refuse(path)
    config = path / "config.json"
    hf = files.read_json(config)
    family = _understood(config, lambda: families.family(hf.get("model_type")))
    known = family.architectures
    given = hf.get("architectures") or [next(iter(known))]
    if not isinstance(given, list) or str(given[0]) not in known:
        raise ValueError(
            f"{config} has architectures {given!r}; of the family {family.name} are "
            f"known {', '.join(known)}"
        )
    cfg = _understood(config, lambda: family.to_config(_bounded(hf)))
    tensors: Mapping[str, Stored] = files.open_folder(path)
    cfg = _understood(config, lambda: _plausible(cfg, tensors))
    table = _understood(config, lambda: family.table(cfg))
    tensors = _renamed(tensors, table)
    return Source(path, family, known[given[0]], cfg, table, tensors)


def _renamed(tensors: Mapping[str, Stored], table: Table) -> Mapping[str, Stored]:
    """The tensors by the names that they have today.

    Raises:
      ValueError: two of one name.
    """
    found: dict[str, Stored] = {}
    for name, stored in tensors.items():
        today = name
        for old, new in table.renamed:
            today = re.sub(old, new, today)
        if today in found:
            raise ValueError(
                f"{stored.file} has the tensor {today!r} twice, once by an older name; "
                "remove one of them"
            )
        found[today] = stored
    return found


def _open_gguf(path: Path) -> Source:
    metadata, tensors = gguf.open_gguf(path)
    name = metadata.get("general.architecture")
    family = _understood(path, lambda: families.family(name))
    if family.gguf is None:
        raise ValueError(
            f"{path} is of the family {family.name}, whose names in GGUF are unknown "
            "here; load the family's safetensors instead"
        )
    convert, table = family.gguf.to_hf, family.gguf.table
    hf = _understood(path, lambda: _bounded(convert(metadata, tensors)))
    cfg = _understood(path, lambda: _plausible(family.to_config(hf), tensors))
    head = next(iter(family.architectures.values()))
    return Source(
        path, family, head, cfg, _understood(path, lambda: table(cfg)), tensors
    )


def _understood(path: Path, f: Callable[[], Any]) -> Any:
    """f(), what it raises reworded: a config is a stranger's, with any types in it."""
    try:
        return f()
    except KeyError as e:
        raise ValueError(f"{path} lacks the key {e}") from e
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as e:
        raise ValueError(f"{path}: {e}") from e


def _bounded(hf: dict[str, Any]) -> dict[str, Any]:
    """The same dict, once none of its sizes is absurd.

    Raises:
      ValueError: naming the key.
    """
    for key, value in hf.items():
        many = "layer" in key and not isinstance(value, float)
        limit = MAX_LAYERS if many else MAX_NUMBER
        size = len(value) if isinstance(value, (list, dict)) else value
        if isinstance(size, int) and abs(size) > limit:
            raise ValueError(f"{key} is {size}; accepted: at most {limit}")
    return hf


def _plausible(cfg: ModelConfig, tensors: Mapping[str, Stored]) -> ModelConfig:
    """The same config, once each field is of its type and each size fits the file.

    A family only copies what config.json says, and even shapes without values cost
    memory where a size is absurd (the frequencies of a head, say).

    Raises:
      ValueError: naming the field.
    """
    hash(cfg)  # TypeError for a list or a dict where a number should be
    config_lib.parse({"model": config_lib.to_dict(cfg), "data": {"seq_len": 1}})
    largest = max((math.prod(s.shape) for s in tensors.values()), default=0)

    def check(value: Any, name: str) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                check(getattr(value, field.name), field.name)
        elif isinstance(value, tuple):
            for item in value:
                check(item, name)
        elif isinstance(value, int) and value > largest and name not in DISTANCES:
            raise ValueError(
                f"{name} is {value}, and no tensor of the file has more than "
                f"{largest} values"
            )

    check(cfg, "model")
    return cfg


# --- the check -----------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def abstract(model: nn.Module) -> tuple[dict[str, Shape], dict[str, Axes]]:
    """Shapes and logical axes of a model's leaves by path, with nothing computed.

    Raises:
      ValueError: a config that no model can be made of.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    batch = {"tokens": tokens, "encoder_tokens": tokens}
    try:
        params, axes = param_axes(model, batch)
    except Exception as e:  # jax has many for sizes beyond its own
        raise ValueError(f"no model can be made of its config: {e}") from e
    leaves = traverse_util.flatten_dict(params, sep="/")
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    return shapes, traverse_util.flatten_dict(axes, sep="/")


def check(source: Source, shapes: Mapping[str, Shape]) -> list[Bound]:
    """The table's entries with the file's own names, all of them there as they should.

    Raises:
      ValueError: the first tensor that is missing, mis-shaped, mis-typed or extra.
    """
    tensors, table = source.tensors, source.table
    who = f"the family {source.family.name}"
    bound = _understood(source.path, lambda: bind(table, shapes))
    base = table.base
    if base and not any(name.startswith(base) for name in tensors):
        bound = [dataclasses.replace(b, name=b.name.removeprefix(base)) for b in bound]
    wanted = set()
    for entry in bound:
        for index in entry.indices():
            name = entry.tensor(index)
            stored = tensors.get(name)
            if stored is None:
                raise ValueError(
                    f"{source.path} lacks the tensor {name!r} {entry.shape}, which "
                    f"{who} needs for our {', '.join(entry.paths)}"
                )
            if stored.shape != entry.shape:
                raise ValueError(
                    f"{stored.file}: tensor {name!r} has the shape {stored.shape}; "
                    f"{who} with this config needs {entry.shape}"
                )
            if stored.dtype is None:
                raise ValueError(
                    f"{stored.file}: tensor {name!r} is of type {stored.kind}; {who} "
                    f"needs one of {', '.join(files.FLOATS)}, or in GGUF a quantised "
                    "one that the library gguf dequantises"
                )
            wanted.add(name)
    for name, stored in tensors.items():
        if name not in wanted and not _ignored(name, table):
            raise ValueError(
                f"{stored.file} has the tensor {name!r} {stored.shape}, which {who} "
                "with this config has no use for; is config.json another model's?"
            )
    return bound


def _ignored(name: str, table: Table) -> bool:
    return any(
        re.fullmatch(pattern, name) or re.fullmatch(pattern, table.base + name)
        for pattern in table.ignored
    )


# --- reading -------------------------------------------------------------------------


def read_params(
    source: Source, model: nn.Module, *, mesh: Mesh | None = None, dtype: Any = None
) -> Any:
    """The parameters of `source` as `model` has them; see `load`."""
    shapes, axes = abstract(model)
    bound = check(source, shapes)
    if mesh is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        shardings: dict[str, Sharding] = dict.fromkeys(shapes, device)
    else:
        structs = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
        shardings = tree_shardings(structs, axes, mesh)
    plan = [
        (path, entry, i, _dtype(source, entry, dtype))
        for entry in bound
        for i, path in enumerate(entry.paths)
    ]
    leaves = {}
    for path, entry, i, kind in plan:
        block = functools.partial(_block, source.tensors, entry, i, kind)
        leaves[path] = _array(shapes[path], shardings[path], block)
    return traverse_util.unflatten_dict(leaves, sep="/")


def _dtype(source: Source, entry: Bound, dtype: Any) -> np.dtype:
    """What an entry's leaves become: `dtype`, or the one type that is stored."""
    if dtype is not None:
        if jnp.dtype(dtype) not in files.FLOATS.values():
            known = ", ".join(d.name for d in files.FLOATS.values())
            raise ValueError(f"dtype is {dtype!r}; accepted: {known}")
        return jnp.dtype(dtype)
    stored = [source.tensors[entry.tensor(index)] for index in entry.indices()]
    kinds = {s.dtype for s in stored if s.dtype is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"{stored[0].file}: the tensors {entry.name!r} of the family "
            f"{source.family.name} are of types {sorted(map(str, kinds))}, and our "
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
    tensors: Mapping[str, Stored],
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
