"""Adapters of a model, written as peft's."""

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from llmjax.config import IA3, Adapters, LoRA
from llmjax.hub.adapters.format import PREFIX
from llmjax.hub.adapters.formats import FORMATS
from llmjax.hub.adapters.matrices import written_matrices
from llmjax.hub.adapters.places import CONFIG, WEIGHTS, Place, places
from llmjax.hub.binding import bind
from llmjax.hub.load import abstract
from llmjax.hub.meaning import simplest
from llmjax.hub.save import family_of
from llmjax.hub.table import Table
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from llmjax.peft.adapted import method, of_adapters, trained
from llmjax.peft.lora import LowRank
from llmjax.peft.method import matches

TASK_TYPES = {
    "SequenceClassifier": "SEQ_CLS",
    "TokenClassifier": "TOKEN_CLS",
    "SpanFinder": "QUESTION_ANS",
    "Encoder": "FEATURE_EXTRACTION",
}


def save(
    model: Any,
    params: Any,
    peft: Adapters,
    path: str | Path,
    *,
    base: str = "",
    family: str | None = None,
    beside: Sequence[Path] = (),
) -> None:
    """Writes adapters, and what was trained beside them, to a new folder.

    Args:
      model: the one without adapters.
      params: with adapters, of the model that was trained.
      peft: that they were trained by.
      path: of the folder.
      base: what the base is called: `init.path`.
      family: `model_type` of the base; None: the first that can express it.
      beside: files to copy along, such as tokenizer.json.

    Raises:
      ValueError: a folder that is not empty, or what peft's format can't say.
    """
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty; give a new folder or remove it")
    flat = flatten_dict(nn.unbox(params), sep="/")
    table = family_of(model, family).table(simplest(model.cfg))
    bare = table.base if isinstance(model, Encoder) else ""
    there = places(table, model)
    saved = _saved_whole(peft, table, model, flat, bare)
    config = {
        "base_model_name_or_path": base,
        "task_type": _task_type(model),
        "modules_to_save": sorted({_module(n) for n in saved}) or None,
        "inference_mode": True,
    }
    names = [name for p in there for name, _ in p.named(bare)]
    format_ = FORMATS.get(type(peft))
    if format_ is None:
        pairs = _pairs(peft, there, flat, bare)
        tensors, fields = pairs.tensors, _fields(peft, pairs, names)
    else:
        tensors, fields, seen = written_matrices(format_, peft, there, flat, bare)
        _check_all(peft, flat, seen)
        tails = (t.removeprefix(PREFIX) for t in tensors)
        scopes = {t.rsplit(".", k)[0] for t in tails for k in (1, 2)}
        adapted = sorted(scopes.intersection(names))
        fields |= {
            "peft_type": format_.kind,
            "target_modules": _targets(adapted, names),
        }
    if format_ is None or format_.oriented:
        fields["fan_in_fan_out"] = any(p.input_axis(0) == 0 for p in there)
    contiguous = {k: np.ascontiguousarray(x) for k, x in (tensors | saved).items()}
    _write(path, config | fields, contiguous, beside)


def _write(
    path: Path,
    config: Mapping[str, Any],
    tensors: dict[str, np.ndarray],
    beside: Sequence[Path],
) -> None:
    """Writes the folder, whole or not at all."""
    partial = path.parent / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        file = partial / WEIGHTS
        safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
        shutil.copymode(partial / CONFIG, file)
        for other in beside:
            shutil.copyfile(other, partial / other.name)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """The adapters of a model, as peft has them.

    Attributes:
      tensors: by peft's names.
      ranks: module -> rank and scale, of LoRA.
      inputs: modules whose input IA3 scales.
    """

    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ranks: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    inputs: set[str] = dataclasses.field(default_factory=set)

    @property
    def modules(self) -> list[str]:
        """The modules that have adapters."""
        return sorted(set(map(_module, self.tensors)))


def _pairs(
    peft: Adapters, there: Sequence[Place], flat: Mapping[str, Any], bare: str
) -> _Pairs:
    """The adapters among a model's weights.

    Raises:
      ValueError: adapters of a matrix that the family's files don't have alone.
    """
    out, seen = _Pairs(), set()
    written: Any = _written_ia3 if isinstance(peft, IA3) else _written_lora
    for place in there:
        paths = place.bound.paths
        for name, index in place.named(bare):
            own = [_weights(peft, flat, path, index) for path in paths]
            if not any(own):
                continue
            seen |= {p for p, weights in zip(paths, own, strict=True) if weights}
            kernels = [np.asarray(flat[path][index], np.float32) for path in paths]
            for suffix, tensor in written(peft, place, own, kernels).items():
                out.tensors[f"{PREFIX}{name}.{suffix}"] = np.ascontiguousarray(tensor)
                if suffix == "lora_A.weight" and isinstance(peft, LoRA):
                    out.ranks[name] = len(tensor), _scale(peft, place, own)
            if isinstance(peft, IA3) and _of_input(peft, place):
                out.inputs.add(name)
    _check_all(peft, flat, seen)
    return out


def _check_all(peft: Adapters, flat: Mapping[str, Any], seen: set[str]) -> None:
    """Raises ValueError where adapters are left that `seen` has no kernel of."""
    scopes = {k.rpartition("/")[0] for k in flat if of_adapters(peft, k)}
    kernels_of = {scope.removesuffix(f"_{method(peft).name}") for scope in scopes}
    if rest := sorted(kernels_of - seen):
        raise ValueError(
            f"peft's format holds no adapters of {rest[0]}, which is no matrix of its "
            "own in the family's files; merge them, by leaving --adapters out"
        )


def _task_type(model: Any) -> str | None:
    """peft's word for what a model does, which chooses its wrapper; None: none."""
    if isinstance(model, LanguageModel):
        words = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}
        return words.get(model.cfg.architecture)
    return TASK_TYPES.get(type(model).__name__)


def _module(tensor: str) -> str:
    """The module of a tensor of peft's: "…q_proj" of "base_model.model.…q_proj.x"."""
    name = tensor.removeprefix(PREFIX)
    return re.sub(
        r"\.(lora_[AB]\.weight|lora_magnitude_vector|ia3_l|weight|bias)$", "", name
    )


def _weights(
    peft: Adapters, flat: Mapping[str, Any], kernel: str, index: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The adapters of a kernel at an index of its stacked axes; {}: it has none."""
    prefix = f"{kernel}_{method(peft).name}/"
    return {
        name.removeprefix(prefix): np.asarray(leaf[index], np.float32)
        for name, leaf in flat.items()
        if name.startswith(prefix)
    }


def _written_lora(
    peft: LoRA, place: Place, own: list[dict[str, Any]], kernels: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors of one matrix of the hub, by the ends of their names.

    Of parts with scales of their own, B is multiplied so that the first one's holds.
    """
    parts = [k for k, weights in enumerate(own) if weights]
    scale, starts = _scale(peft, place, own), [0]
    for k in parts:
        starts.append(starts[-1] + len(own[k]["b"]))
    blocks = []
    for k, kernel in enumerate(kernels):
        outer = _outer(place, k, kernel.shape)
        block = np.zeros((starts[-1], *outer), np.float32)
        if k in parts:
            start, end = starts[parts.index(k) :][:2]
            ratio = LowRank(peft).scale(_matrix(place, k)) / scale
            block[start:end] = own[k]["b"] * np.float32(ratio)
        blocks.append(block)
    out = {
        "lora_A.weight": np.concatenate(
            [place.a_to_theirs(k, own[k]["a"]) for k in parts]
        ),
        "lora_B.weight": place.b_to_theirs(blocks),
    }
    if peft.magnitude:
        lengths = []
        for k, kernel in enumerate(kernels):
            more = own[k]["magnitude"] if k in parts else 0
            lengths.append((place.length(k, kernel) + more)[None])
        out["lora_magnitude_vector"] = place.b_to_theirs(lengths)[:, 0]
    return out


def _scale(peft: LoRA, place: Place, own: Sequence[Mapping[str, Any]]) -> float:
    """The factor of a matrix of the hub: that of its first part with adapters."""
    first = next(k for k, weights in enumerate(own) if weights)
    return LowRank(peft).scale(_matrix(place, first))


def _matrix(place: Place, k: int) -> str:
    return place.bound.paths[k].removesuffix("/kernel")


def _outer(place: Place, k: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the k-th part's axes of results."""
    return shape[len(place.inner(k)) :]


def _written_ia3(
    peft: IA3, place: Place, own: list[dict[str, Any]], kernels: list[np.ndarray]
) -> dict[str, np.ndarray]:
    vectors = [weights.get("vector") for weights in own]
    first = next(v for v in vectors if v is not None)
    inner = kernels[0].shape[: len(place.inner(0))]
    if first.shape == inner and _of_input(peft, place):
        if len(own) > 1:
            raise ValueError(
                f"peft's format holds no part of the input of {place.name}"
            )
        return {"ia3_l": place.a_to_theirs(0, first[..., None])}
    ones = [
        np.ones(_outer(place, k, w.shape), np.float32) for k, w in enumerate(kernels)
    ]
    rows = [
        (one if v is None else v)[None] for v, one in zip(vectors, ones, strict=True)
    ]
    return {"ia3_l": place.b_to_theirs(rows)}


def _of_input(peft: IA3, place: Place) -> bool:
    path = place.bound.paths[0].removesuffix("/kernel")
    return matches(path, peft.inputs)


def _saved_whole(
    peft: Adapters,
    table: Table,
    model: nn.Module,
    flat: Mapping[str, Any],
    bare: str,
) -> dict[str, np.ndarray]:
    """The tensors of modules that were trained whole: those outside of the layers that
    hold a head of classes, and those of `peft.train`."""
    shapes, axes = abstract(model)
    changed, saved = trained(peft, axes), {}
    for bound in bind(table, shapes):
        if not changed.isdisjoint(bound.paths):
            for index in bound.indices():
                name = bound.tensor(index).removeprefix(bare)
                leaves = [np.asarray(flat[p][index], np.float32) for p in bound.paths]
                saved[PREFIX + name] = np.ascontiguousarray(bound.join(leaves))
    return saved


def _targets(adapted: list[str], names: Sequence[str]) -> list[str] | str:
    """peft's `target_modules`: last names where they say which, else an expression."""
    ends = sorted({name.rpartition(".")[2] for name in adapted})
    if sorted(n for n in names if n.rpartition(".")[2] in ends) == adapted:
        return ends
    return "|".join(map(re.escape, adapted))


def _fields(peft: Adapters, pairs: _Pairs, names: Sequence[str]) -> dict[str, Any]:
    """The fields of adapter_config.json that say a method and its matrices.

    Args:
      names: of all modules that may have adapters.
    """
    common = {
        "peft_type": peft.kind.upper(),
        "target_modules": _targets(pairs.modules, names),
    }
    if isinstance(peft, IA3):
        return common | {"feedforward_modules": _targets(sorted(pairs.inputs), names)}
    assert isinstance(peft, LoRA)
    ranks = {name: r for name, (r, _) in pairs.ranks.items() if r != peft.rank}
    power = 0.5 if peft.rank_stabilized else 1.0
    alphas = {name: scale * r**power for name, (r, scale) in pairs.ranks.items()}
    return common | {
        "r": peft.rank,
        "lora_alpha": peft.alpha,
        "lora_dropout": peft.dropout,
        "use_rslora": peft.rank_stabilized,
        "use_dora": peft.magnitude,
        "bias": "none",
        "rank_pattern": {re.escape(n): r for n, r in ranks.items()},
        "alpha_pattern": {
            re.escape(n): alpha
            for n, alpha in alphas.items()
            if not math.isclose(alpha, peft.alpha)
        },
    }
