"""Adapters that peft wrote, read as ours; what has no place here is an error."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.config import IA3, Adapters, LoRA
from llmjax.hub import files
from llmjax.hub.adapters.formats import KINDS
from llmjax.hub.adapters.matrices import read_matrices
from llmjax.hub.adapters.places import CONFIG, WEIGHTS, Place, places
from llmjax.hub.adapters.reader import Reader
from llmjax.hub.binding import bind
from llmjax.hub.load import BATCH, abstract
from llmjax.hub.meaning import simplest
from llmjax.hub.save import family_of
from llmjax.models.heads.encoder import Encoder
from llmjax.peft import adapted

# Fields of adapter_config.json that have no effect on what adapters compute.
_SILENT = {
    "auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_type",
    "inference_mode", "target_modules", "fan_in_fan_out", "modules_to_save",
    "init_weights", "init_ia3_weights", "feedforward_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "peft_version",
    "lora_bias", "qalora_group_size", "megatron_core", "runtime_config",
    "ensure_weight_tying", "init_lora_weights",
}  # fmt: skip
_READ = {
    "LORA": {
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern",
        "alpha_pattern",
    },
    "IA3": set[str](),
    **{kind: format_.known for kind, format_ in KINDS.items()},
}  # fmt: skip


def load(
    path: str | Path, model: Any, params: Any, *, family: str | None = None
) -> tuple[Adapters, Any]:
    """Adapters that peft wrote for a model, as ours.

    Args:
      path: the folder.
      model, params: the base, as `hub.load` gives it.
      family: its `model_type`; None: that of the files it came from, or the first that
        can express it.

    Returns:
      Their config, and their weights in our tree, with those that peft saved whole.
      Matrices of less than the largest rank have zeros; where their scales differ, B
      has the ratio in it.

    Raises:
      ValueError: a method, a field with an effect or a tensor that has no place here.
    """
    path = Path(path).expanduser()
    fields, tensors = _files(path)
    kind = fields.get("peft_type")
    if kind not in _READ:
        raise ValueError(
            f"{path / CONFIG}: peft_type is {kind!r}; accepted: {', '.join(_READ)}"
        )
    begun = fields.get("init_lora_weights", True)
    if not (isinstance(begun, bool) or begun in ("gaussian", "orthogonal", "eva")):
        raise ValueError(
            f"{path / CONFIG}: init_lora_weights={begun!r} changes the base beside the "
            "adapters; let peft convert them, by save_pretrained(…, "
            "path_initial_model_for_weight_conversion=…)"
        )
    for name, value in fields.items():
        known = name in _SILENT | _READ[kind]
        if not known and value not in (None, False, "none", [], {}, 0):
            raise ValueError(
                f"{path / CONFIG}: {name}={value!r} has an effect that is not known "
                "here; accepted beside what says nothing: "
                f"{', '.join(sorted(_READ[kind]))}"
            )
    chosen = family_of(model, family)
    table = chosen.table(simplest(model.cfg))
    bare = table.base if isinstance(model, Encoder) else ""
    flat = flatten_dict(nn.unbox(params), sep="/")
    reader = Reader(path, fields, tensors, bare, flat)
    there = places(table, model)
    if kind in KINDS:
        peft, leaves = read_matrices(KINDS[kind], reader, there)
    else:
        read = _read_lora if kind == "LORA" else _read_ia3
        peft, leaves = read(reader, there)
    for bound in bind(table, abstract(model)[0]):
        leaves |= reader.whole(bound, abstract(model)[0])
    if rest := sorted(reader.rest()):
        raise ValueError(
            f"{path / WEIGHTS}: {rest[0]!r}"
            + (f" and {len(rest) - 1} more" if rest[1:] else "")
            + f" is of no matrix of this {type(model).__name__} of the family "
            f"{chosen.name}; give the base that the adapters were trained on"
        )
    return peft, unflatten_dict(leaves, sep="/")


def merged(path: str | Path, model: Any, params: Any) -> Any:
    """The base's parameters with the adapters of a folder in its matrices.

    Args:
      path: the folder that peft wrote.
      model, params: the base, as `hub.load` gives it.

    Raises:
      ValueError: as `load`.
    """
    peft, own = load(path, model, params)
    flat = flatten_dict(nn.unbox(params), sep="/")
    whole = {**flat, **flatten_dict(own, sep="/")}
    sum_ = adapted.merged(peft, model, BATCH, unflatten_dict(whole, sep="/"))
    types = {name: leaf.dtype for name, leaf in flat.items()}
    leaves = flatten_dict(sum_, sep="/")
    cast = {name: leaf.astype(types[name]) for name, leaf in leaves.items()}
    return unflatten_dict(cast, sep="/")


def _files(path: Path) -> tuple[dict[str, Any], dict[str, files.StoredTensor]]:
    """adapter_config.json and the tensors."""
    if not (path / CONFIG).is_file():
        raise ValueError(f"{path} has no {CONFIG}; give a folder that peft wrote")
    if not (path / WEIGHTS).is_file():
        raise ValueError(f"{path} has no {WEIGHTS}; other formats may hold code")
    return files.read_json(path / CONFIG), files.open_safetensors(path / WEIGHTS)[0]


def _read_lora(reader: Reader, there: list[Place]) -> tuple[LoRA, dict[str, Any]]:
    fields = reader.fields
    dora, found = bool(fields.get("use_dora")), []
    for place in there:
        for module, index in place.named(reader.bare):
            a = reader.take(module, "lora_A.weight")
            if a is None:
                continue
            b = reader.take(module, "lora_B.weight", needed=True)
            length = reader.take(module, "lora_magnitude_vector", needed=dora)
            rank, scale = reader.scale(module)
            outputs, inputs = place.shape
            if a.shape != (rank, inputs) or b.shape != (outputs, rank):
                raise ValueError(
                    f"{reader.path / WEIGHTS}: {module} has factors of {a.shape} and "
                    f"{b.shape}; the model and {CONFIG} want {(rank, inputs)} and "
                    f"{(outputs, rank)}"
                )
            found.append((place, index, a, b, scale, length))
    if not found:
        raise ValueError(
            f"{reader.path / WEIGHTS} has no adapter of a matrix of this model; give "
            "the base that it was trained on"
        )
    largest = max(len(a) for _, _, a, *_ in found)
    scale = max(scale for *_, scale, _ in found)
    leaves: dict[str, Any] = {}
    for place, index, a, b, own, length in found:
        a = np.pad(a, ((0, largest - len(a)), (0, 0)))
        b = np.pad(b, ((0, 0), (0, largest - b.shape[1]))) * (own / scale)
        for k, path in enumerate(place.bound.paths):
            values = {"a": place.a_to_ours(k, a), "b": place.b_to_ours(k, b)}
            if dora:
                base = place.length(k, np.asarray(reader.params[path][index]))
                whole = place.b_to_ours(k, length.reshape(-1, 1))[0]
                values["magnitude"] = whole - base
            for name, value in values.items():
                shape = (*place.bound.stacked, *value.shape)
                leaf = leaves.setdefault(f"{path}_lora/{name}", np.zeros(shape, "f4"))
                leaf[index] = value
    rank_stabilized = bool(fields.get("use_rslora"))
    peft = LoRA(
        rank=largest,
        alpha=scale * largest ** (0.5 if rank_stabilized else 1.0),
        rank_stabilized=rank_stabilized,
        magnitude=dora,
        dropout=float(fields.get("lora_dropout") or 0),
        targets=_targets(leaves),
    )
    return peft, leaves


def _targets(leaves: Mapping[str, Any]) -> tuple[str, ...]:
    """The paths of the matrices that have adapters."""
    scopes = (path.rpartition("/")[0] for path in leaves)
    return tuple(dict.fromkeys(scope.rpartition("/")[0] for scope in scopes))


def _read_ia3(reader: Reader, there: list[Place]) -> tuple[IA3, dict[str, Any]]:
    leaves: dict[str, Any] = {}
    of_inputs: list[str] = []
    of_outputs: list[str] = []
    for place in there:
        for module, index in place.named(reader.bare):
            vector = reader.take(module, "ia3_l")
            if vector is None:
                continue
            of_input = vector.shape[0] == 1 and math.prod(vector.shape) > 1
            outputs, inputs = place.shape
            if vector.size != (inputs if of_input else outputs):
                raise ValueError(
                    f"{reader.path / WEIGHTS}: {module} has a vector of {vector.shape};"
                    f" the model wants {(1, inputs)} or {(outputs, 1)}"
                )
            for k, path in enumerate(place.bound.paths):
                if of_input:
                    value = place.a_to_ours(k, vector)[..., 0]
                else:
                    value = place.b_to_ours(k, vector)[0]
                shape = (*place.bound.stacked, *value.shape)
                name = f"{path}_ia3/vector"
                leaves.setdefault(name, np.ones(shape, "f4"))[index] = value
                (of_inputs if of_input else of_outputs).append(name)
    if not leaves:
        raise ValueError(
            f"{reader.path / WEIGHTS} has no adapter of a matrix of this model; give "
            "the base that it was trained on"
        )
    targets = [_targets(dict.fromkeys(names)) for names in (of_outputs, of_inputs)]
    return IA3(outputs=targets[0], inputs=targets[1]), leaves
