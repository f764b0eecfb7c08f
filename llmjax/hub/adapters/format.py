"""peft's names for the weights and settings of a method, and ours.

A method whose maths is of plain matrices has a `Format`: its tensors are ours, both
axes of factors exchanged, one matrix of the hub at a time.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmjax.peft.matrix import Size

PREFIX = "base_model.model."

Weights = dict[str, np.ndarray]  # of one matrix, flat: see `llmjax.peft.matrix.Spec`


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The adapter of one matrix of the hub.

    Attributes:
      size: of the matrix, its path being peft's name of the module.
      kernel: gives the matrix, [I, O].
      weights: of the method.
    """

    size: Size
    kernel: Callable[[], np.ndarray]
    weights: Weights


@runtime_checkable
class Source(Protocol):
    """The tensors of a folder; each that is read is known to belong somewhere.

    Attributes:
      fields: adapter_config.json.
    """

    fields: Mapping[str, Any]

    def take(self, module: str, suffix: str) -> Any:
        """A module's tensor; None: it has none."""

    def tensor(self, name: str) -> Any:
        """A tensor that must be there."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A method in peft's files.

    Attributes:
      kind: peft_type.
      config: our class.
      fields: name of a field of ours -> theirs, where the values are the same.
      tensors: name of a weight of ours -> the end of theirs; both axes change places
        where it ends in ".T".
      constants: fields of theirs that may have these values alone.
      silent: fields of theirs that have no effect on what is computed.
      oriented: whether theirs has `fan_in_fan_out`, and so takes GPT-2's matrices.
    """

    kind: str
    config: type
    fields: Mapping[str, str]
    tensors: Mapping[str, str]
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    silent: tuple[str, ...] = ()
    oriented: bool = False

    @property
    def known(self) -> set[str]:
        """Their fields that are read or have no effect."""
        return {*self.fields.values(), *self.constants, *self.silent}

    def suffix(self, name: str) -> str:
        """The end of the name of the tensor that holds a weight of ours."""
        return self.tensors[name].removesuffix(".T")

    def settings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of our config, of theirs.

        Raises:
          KeyError: theirs lacks one.
        """
        return {ours: fields[theirs] for ours, theirs in self.fields.items()}

    def parsed(self, fields: Mapping[str, Any]) -> Any:
        """Our config, of their fields.

        Raises:
          KeyError: theirs lacks one.
          ValueError: a value that ours does not accept.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self.config)}
        settings = {
            name: float(value) if isinstance(defaults[name], float) else value
            for name, value in self.settings(fields).items()
        }
        return self.config(**settings)

    def written(
        self, peft: Any, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors by name, and the fields of adapter_config.json.

        Raises:
          ValueError: what the format can't say.
        """
        tensors = {
            f"{PREFIX}{adapter.size.path}.{self.suffix(name)}": self.turned(name, value)
            for adapter in adapters
            for name, value in self.theirs(adapter).items()
        }
        fields = {theirs: getattr(peft, ours) for ours, theirs in self.fields.items()}
        return tensors, fields | dict(self.constants)

    def theirs(self, adapter: Adapter) -> Weights:
        """The weights of an adapter that are written for it alone, by our names."""
        return adapter.weights

    def read(self, peft: Any, adapter: Adapter, source: Source) -> Weights:
        """Our weights of an adapter; {}: the matrix has none.

        Args:
          peft: our config.
          adapter: without weights.
          source: of the tensors.
        """
        path = adapter.size.path
        found = {name: source.take(path, self.suffix(name)) for name in self.tensors}
        return {
            name: self.turned(name, value)
            for name, value in found.items()
            if value is not None
        }

    def turned(self, name: str, value: np.ndarray) -> np.ndarray:
        """A weight of ours as theirs, or theirs as ours."""
        return value.T if self.tensors[name].endswith(".T") else value
