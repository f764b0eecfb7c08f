"""A model saved in the hub's format, which transformers loads."""

import collections
import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from llmjax.config import ModelConfig
from llmjax.hub import classes, families, text_vectors
from llmjax.hub import origin as origin_lib
from llmjax.hub.binding import Bound, bind
from llmjax.hub.files import FLOATS, INDEX, Shape
from llmjax.hub.load import abstract
from llmjax.hub.meaning import normal, simplest
from llmjax.hub.origin import GENERATION, Origin
from llmjax.hub.table import Classification, Family
from llmjax.models.heads.classifier import OrdinalClassifier, SequenceClassifier
from llmjax.models.heads.relation import RelationClassifier
from llmjax.models.heads.token import TokenClassifier

SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class NewTensor:
    """A tensor of the hub, whose values `compute` brings to the host."""

    name: str
    shape: Shape
    dtype: np.dtype
    compute: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def save(
    model: Any,
    params: Any,
    path: str | Path,
    *,
    family: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    beside: Sequence[Path] = (),
) -> Family:
    """Writes config.json and safetensors to a new folder, whole or not at all.

    A model that was loaded keeps what its config.json said besides: the ids of tokens,
    the longest input, generation_config.json.

    Args:
      model: a model of `llmjax.models.heads`.
      params: the model's parameters, all of them on this process's devices; stored in
        their own types.
      path: the folder; it must not exist, or be empty.
      family: `model_type` to write; None: the model's own where it was loaded and still
        is of it, or else the first that can express this model.
      shard_bytes: above this there are several files and an index; the host holds one.
      beside: files to copy along, such as tokenizer.json.

    Returns:
      The family that was written.

    Raises:
      ValueError: no family can express this model, parameters that are not the model's,
        or a folder that is not empty.
    """
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty; give a new folder or remove it")
    check_head(model)
    leaves = traverse_util.flatten_dict(nn.unbox(params), sep="/")
    _check(leaves, abstract(model)[0])
    head, cfg = type(model).__name__, simplest(model.cfg)
    origin: Origin | None = getattr(model, "origin", None)
    way, chosen = classification(model), family_of(model, family)
    tensors = list(_tensors(chosen, cfg, leaves, head == "Encoder"))
    config = _config(chosen, cfg, head, tensors, origin, way)
    if isinstance(model, classes.HEADS):
        config = _with_classes(config, model)
    partial = path.parent / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if origin and origin.generation:
            (partial / GENERATION).write_text(origin.generation)
        if origin and origin.reading and head == "Encoder":
            text_vectors.write(partial, origin.reading, cfg.d_model)
        _write(tensors, partial, shard_bytes)
        for file in partial.glob("*.safetensors"):  # the library's are the owner's own
            shutil.copymode(partial / "config.json", file)
        for file in beside:
            shutil.copyfile(file, partial / file.name)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return chosen


def check_head(model: Any) -> None:
    """Raises ValueError for a head that no format of the hub holds."""
    if getattr(model, "crf", False):
        raise ValueError(
            "the model has a conditional random field (task.crf) above its tags' "
            "scores, which no format of the hub holds; train it with task.crf=False"
        )
    if isinstance(model, RelationClassifier):
        raise ValueError(
            "the model scores relations from the markers of two entities (task "
            "'relation_extraction'), which no class of transformers does; `llmjax "
            "predict` reads the run"
        )
    if isinstance(model, OrdinalClassifier):
        raise ValueError(
            "the model has thresholds between ordered classes (task.problem.kind="
            "'ordinal_regression'), which no format of the hub holds; train it with "
            "task.problem.kind='single_label_classification' or 'regression'"
        )


def to_hub(
    family: Family, cfg: ModelConfig, params: Any, *, bare: bool = False
) -> dict[str, np.ndarray]:
    """All tensors by the hub's names and in its layout.

    Args:
      bare: without the prefix that names have under a head.

    Raises:
      ValueError: parameters that the family has no names for.
    """
    cfg, leaves = simplest(cfg), traverse_util.flatten_dict(nn.unbox(params), sep="/")
    return {t.name: t.compute() for t in _tensors(family, cfg, leaves, bare)}


def _with_classes(
    config: dict[str, Any], model: SequenceClassifier | TokenClassifier
) -> dict[str, Any]:
    """A config.json with the classes of its model."""
    labels = model.labels or classes.unnamed(model.classes)
    if isinstance(model, TokenClassifier):
        return config | classes.names(labels)
    stale = ("problem_type",) if config.get("problem_type") != model.problem else ()
    kept = {key: value for key, value in config.items() if key not in stale}
    return kept | classes.keys(labels, model.problem)


def classification(model: Any) -> Classification | None:
    """A classifier's way to classes; None: it is another model."""
    if isinstance(model, TokenClassifier):
        return Classification("none", model.form)
    if not isinstance(model, SequenceClassifier):
        return None
    return Classification(model.pooling, model.form)


def way_to_classes(
    cfg: ModelConfig, head: str = SequenceClassifier.__name__
) -> Classification | None:
    """The way of the first family that can express a classifier of this config.

    None: none can.

    Args:
      head: "SequenceClassifier" or "TokenClassifier".
    """
    for name in families.MODULES:
        family = families.family(name)
        if (own := family.way(head)) is None:
            continue
        with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError):
            way = own.to_ours(family.to_hf(simplest(cfg)))
            if _problem(family, cfg, head, way) is None:
                return way
    return None


def family_of(model: Any, name: str | None = None) -> Family:
    """The family `name`, or that of the files of a model, or the first that fits it.

    Raises:
      ValueError: none can express the model; with the reason for each family tried.
    """
    origin: Origin | None = getattr(model, "origin", None)
    return find_family(
        simplest(model.cfg),
        type(model).__name__,
        name,
        first=origin.family if origin else "",
        classification=classification(model),
    )


def find_family(
    cfg: ModelConfig,
    head: str,
    name: str | None = None,
    *,
    first: str = "",
    classification: Classification | None = None,
) -> Family:
    """The family `name`, or the first that can express this config and head.

    A family expresses a config if its own config.json, read again, means the same but
    for what only training reads (dropout, init_std, losses and dispatch of a mixture).

    Args:
      first: the family that is tried before all others.
      classification: of a classifier; None: any.

    Raises:
      ValueError: none can; with the reason for each family tried.
    """
    reasons = []
    order = dict.fromkeys((first, *families.MODULES) if first else families.MODULES)
    for model_type in order if name is None else (name,):
        family = families.family(model_type)
        problem = _problem(family, cfg, head, classification)
        if problem is None:
            return family
        reasons.append((model_type, problem))
    # a family of another architecture is far from it
    near = [r for r in reasons if not r[1].startswith("architecture is ")] or reasons
    words = "; ".join(f"{model_type}: {problem}" for model_type, problem in near)
    raise ValueError(
        f"no family of the hub can express this model. {words}"
        if name is None
        else f"the family {words}; let family be None to find one that fits"
    )


def _problem(
    family: Family, cfg: ModelConfig, head: str, way: Classification | None
) -> str | None:
    """The reason why a family can't express a config; None if it can."""
    names = [name for name, of in family.architectures.items() if of == head]
    problems = [_misread(family, cfg, head, name, way) for name in names]
    if not problems:
        return f"it has no {head}"
    return None if None in problems else problems[0]


def _misread(
    family: Family,
    cfg: ModelConfig,
    head: str,
    architecture: str,
    way: Classification | None,
) -> str | None:
    """The reason why a config under an architecture's name isn't read as written."""
    try:
        written = _written(family, cfg, head, way) | {"architectures": [architecture]}
        reread = family.to_config(written)
        ours, theirs = normal(cfg, head), normal(reread, head)
    except (ValueError, AttributeError, KeyError, TypeError) as e:
        return str(e)
    for field in dataclasses.fields(cfg):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if a != b and (field.name != "pooler" or a):  # a bare model may lack its pooler
            return f"{field.name} is {a} and would become {b}"
    return None


def _written(
    family: Family, cfg: ModelConfig, head: str, way: Classification | None
) -> dict[str, Any]:
    """The config.json that a family writes of a model, its head of classes included."""
    written = family.to_hf(simplest(cfg))
    if way is None:
        return written
    own = family.way(head)
    assert own is not None
    return written | own.to_hf(way)


def _check(leaves: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Refuses parameters that are not the model's, or not all on this process."""
    for path in sorted(leaves.keys() | shapes.keys()):
        shape = tuple(leaves[path].shape) if path in leaves else "no such leaf"
        if shape != shapes.get(path, "no such leaf"):
            raise ValueError(
                f"params have {shape} at {path}; the model has "
                f"{shapes.get(path, 'no such leaf')}"
            )
        if not getattr(leaves[path], "is_fully_addressable", True):
            raise ValueError(
                f"{path} lies on several processes' devices; save from a mesh of one "
                "process: restore the checkpoint there first"
            )
        if jnp.dtype(leaves[path].dtype) not in FLOATS.values():
            raise ValueError(
                f"{path} is of type {leaves[path].dtype}; accepted: {', '.join(FLOATS)}"
            )


def _tensors(
    family: Family, cfg: ModelConfig, leaves: Mapping[str, Any], bare: bool
) -> Iterator[NewTensor]:
    """Every tensor of the model, its values not yet on the host."""
    table = family.table(cfg)
    prefix = table.base if bare else ""
    repeats = {name: repeat for repeat, name in table.repeats}
    for entry in bind(table, {k: tuple(v.shape) for k, v in leaves.items()}):
        fused = [leaves[path] for path in entry.paths]
        dtype = np.result_type(*(jnp.dtype(leaf.dtype) for leaf in fused))
        for index in entry.indices():
            name = entry.tensor(index).removeprefix(prefix)
            compute = functools.partial(_values, entry, fused, index)
            tensor = NewTensor(name, entry.shape, dtype, compute)
            yield tensor
            if name in repeats:
                yield dataclasses.replace(tensor, name=repeats[name])


def _values(entry: Bound, leaves: Sequence[Any], index: tuple[int, ...]) -> np.ndarray:
    """The tensor at `index` of the stacked axes: one layer comes to the host, not the
    stack."""
    return np.ascontiguousarray(
        entry.join([np.asarray(leaf[index] if index else leaf) for leaf in leaves])
    )


def _config(
    family: Family,
    cfg: ModelConfig,
    head: str,
    tensors: Sequence[NewTensor],
    origin: Origin | None,
    way: Classification | None,
) -> dict[str, Any]:
    """The dict of config.json."""
    architecture = next(
        name
        for name, of in family.architectures.items()
        if of == head and _misread(family, cfg, head, name, way) is None
    )
    sizes: collections.Counter[str] = collections.Counter()
    for tensor in tensors:
        sizes[tensor.dtype.name] += tensor.nbytes
    common = {
        "architectures": [architecture],
        "model_type": family.name,
        "dtype": sizes.most_common(1)[0][0],
    }
    ours = normal(cfg, head)

    def same(hf: dict[str, Any]) -> bool:
        try:
            reread = family.to_config(hf | {"architectures": [architecture]})
            theirs = normal(reread, head)
            own = family.way(head) if way else None
            if own is not None and own.to_ours(hf) != way:
                return False
        except (ValueError, AttributeError, KeyError, TypeError):
            return False
        return dataclasses.replace(theirs, pooler=ours.pooler) == ours

    written = _written(family, cfg, head, way)
    return common | origin_lib.merged(written, family.name, origin, same)


def _write(tensors: Sequence[NewTensor], folder: Path, shard_bytes: int) -> None:
    """One safetensors file, or shards and their index."""
    shards: list[list[NewTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    files: dict[str, str] = {}  # tensor -> file
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        name = "model.safetensors" if len(shards) == 1 else name
        values = {t.name: t.compute() for t in shard}
        safetensors.numpy.save_file(values, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(values, name)
    if len(shards) > 1:
        total = sum(t.nbytes for t in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
