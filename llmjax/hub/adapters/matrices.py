"""Adapters of plain matrices, from peft's tensors to our tree and back."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmjax.config import Adapters
from llmjax.hub.adapters.format import Adapter, Format, Weights
from llmjax.hub.adapters.places import CONFIG, WEIGHTS, Place
from llmjax.hub.adapters.reader import Reader
from llmjax.models.layers import Projection
from llmjax.peft.adapted import method
from llmjax.peft.matrix import MatrixMethod, Size
from llmjax.peft.method import letters, sizes

Index = tuple[int, ...]


def read_matrices(
    format_: Format, reader: Reader, there: Sequence[Place]
) -> tuple[Adapters, dict[str, np.ndarray]]:
    """The config of adapters, and their leaves by path.

    Matrices without an adapter beside others of their stack that have one get weights
    that do nothing.

    Raises:
      ValueError: a field or a tensor that is missing, of another shape, or of a matrix
        that can't have it.
    """
    peft, leaves = _config(format_, reader), dict[str, np.ndarray]()
    rule = method(peft)
    assert isinstance(rule, MatrixMethod)
    for place, index, adapter in _adapters(there, reader.params, reader.bare):
        weights = format_.read(peft, adapter, reader)
        if not weights:
            continue
        _check_plain(format_, place)
        _check_shapes(reader, rule, adapter.size, weights)
        module, kernel = place.modules[0], place.bound.paths[0]
        for name, spec in rule.specs(adapter.size).items():
            shape = *place.bound.stacked, *_expanded(module, spec.axes)
            value = weights[name]
            leaf = f"{kernel}_{rule.name}/{name}"
            if leaf not in leaves:
                nothing = rule.neutral.get(name, 0)
                leaves[leaf] = np.full(shape, nothing, value.dtype)
            leaves[leaf][index] = value.reshape(shape[len(index) :])
    if not leaves:
        raise ValueError(
            f"{reader.path / WEIGHTS} has no adapter of a matrix of this model; give "
            "the base that it was trained on"
        )
    scopes = dict.fromkeys(leaf.rpartition("/")[0] for leaf in leaves)
    targets = tuple(dict.fromkeys(scope.rpartition("/")[0] for scope in scopes))
    return dataclasses.replace(peft, targets=targets), leaves


def written_matrices(
    format_: Format,
    peft: Adapters,
    there: Sequence[Place],
    flat: Mapping[str, Any],
    bare: str,
) -> tuple[dict[str, np.ndarray], dict[str, Any], set[str]]:
    """The tensors, the fields of the config, and the kernels that have adapters.

    Args:
      format_, peft: of the method.
      there: the places of the model.
      flat: its weights by path, adapters among them.
      bare: prefix that a bare model's names go without.

    Raises:
      ValueError: what the format can't say.
    """
    rule, adapters, kernels = method(peft), [], set[str]()
    for place, index, adapter in _adapters(there, flat, bare):
        for kernel in place.bound.paths:
            prefix = f"{kernel}_{rule.name}/"
            weights = {
                name.removeprefix(prefix): _flat(leaf[index])
                for name, leaf in flat.items()
                if name.startswith(prefix)
            }
            if weights:
                _check_plain(format_, place)
                adapters.append(_with_weights(adapter, weights, rule))
                kernels.add(kernel)
    tensors, fields = format_.written(peft, adapters) if adapters else ({}, {})
    return tensors, fields, kernels


def _adapters(
    there: Sequence[Place], params: Mapping[str, Any], bare: str
) -> Iterator[tuple[Place, Index, Adapter]]:
    """Every matrix of the hub, as an adapter without weights."""
    for place in there:
        outputs, inputs = place.shape
        for name, index in place.named(bare):
            size = Size(inputs, outputs, name)
            kernel = functools.partial(_kernel, params, place, index)
            yield place, index, Adapter(size, kernel, {})


def _kernel(params: Mapping[str, Any], place: Place, index: Index) -> np.ndarray:
    """A matrix of the hub, [I, O]."""
    outputs, inputs = place.shape
    matrix = np.asarray(params[place.bound.paths[0]][index], np.float32)
    return matrix.reshape(inputs, outputs)


def _config(format_: Format, reader: Reader) -> Any:
    """Our config, of the fields of theirs."""
    for name, value in format_.constants.items():
        given = reader.fields.get(name, value)
        if given != value:
            raise ValueError(
                f"{reader.path / CONFIG}: {name}={given!r} has an effect that is not "
                f"known here; accepted: {value!r}"
            )
    try:
        return format_.parsed(reader.fields)
    except KeyError as e:
        raise ValueError(f"{reader.path / CONFIG} lacks {e}") from None
    except ValueError as e:
        raise ValueError(f"{reader.path / CONFIG}: {e}") from None


def _check_plain(format_: Format, place: Place) -> None:
    if not place.plain:
        raise ValueError(
            f"peft's format holds no {format_.kind} of {place.name}, several matrices "
            "of ours in one of the family's files, or one in another order; leave it "
            "out, or merge the adapters, by leaving --adapters out"
        )
    if place.input_axis(0) == 0 and not format_.oriented:
        raise ValueError(
            f"peft has no {format_.kind} of {place.name}, which is stored with its "
            "inputs first; merge the adapters, by leaving --adapters out"
        )


def _check_shapes(
    reader: Reader, rule: MatrixMethod, size: Size, weights: Weights
) -> None:
    expected = {name: spec.shape(size) for name, spec in rule.specs(size).items()}
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != expected:
        differs = [n for n in expected | shapes if expected.get(n) != shapes.get(n)]
        name = differs[0]
        raise ValueError(
            f"{reader.path / WEIGHTS}: {size.path} has {name!r} of "
            f"{shapes.get(name, 'no shape: it lacks it')}; the model and {CONFIG} want "
            f"{expected.get(name, 'none')}"
        )


def _expanded(module: Projection, axes: Sequence[str | int]) -> tuple[int, ...]:
    """A spec's axes with those of the kernel instead of all inputs or outputs."""
    own = letters(module)
    of = {"I": sizes(module, own.inner), "O": sizes(module, own.outer)}
    return sum(((a,) if isinstance(a, int) else of[a] for a in axes), ())


def _with_weights(adapter: Adapter, weights: Weights, rule: Any) -> Adapter:
    specs = rule.specs(adapter.size)
    shaped = {k: v.reshape(specs[k].shape(adapter.size)) for k, v in weights.items()}
    return Adapter(adapter.size, adapter.kernel, shaped)


def _flat(leaf: Any) -> np.ndarray:
    value = np.asarray(leaf)
    whole = np.issubdtype(value.dtype, np.integer)
    return value if whole else value.astype(np.float32)
