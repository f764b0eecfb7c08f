"""The tensors of a folder that peft wrote; each is read once, or left over."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.hub import files
from llmjax.hub.adapters.format import PREFIX
from llmjax.hub.adapters.places import WEIGHTS
from llmjax.hub.binding import Bound

INTEGERS = ("I32", "I64")


@dataclasses.dataclass
class Reader:
    """The tensors of a folder; each is read once, or left over.

    Attributes:
      path, fields, tensors: the folder, its config, its tensors.
      bare: prefix that a bare model's names go without.
      params: of the base, by path.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: dict[str, files.StoredTensor]
    bare: str
    params: Mapping[str, Any]
    seen: set[str] = dataclasses.field(default_factory=set)

    def take(self, module: str, suffix: str, *, needed: bool = False) -> Any:
        """A module's tensor, of float32 or whole numbers; None: it has none.

        Raises:
          ValueError: it is needed and missing, or of another type.
        """
        name = f"{PREFIX}{module}.{suffix}"
        return self.tensor(name) if needed or name in self.tensors else None

    def tensor(self, name: str) -> Any:
        """A tensor by its whole name, which must be there; as `take`."""
        if name not in self.tensors:
            raise ValueError(f"{self.path / WEIGHTS} lacks {name!r}")
        stored = self.tensors[name]
        if stored.dtype is None and stored.kind not in INTEGERS:
            raise ValueError(
                f"{self.path / WEIGHTS}: {name!r} is of type {stored.kind}; accepted: "
                f"{', '.join((*files.FLOATS, *INTEGERS))}"
            )
        self.seen.add(name)
        value = stored.read(tuple(slice(0, n) for n in stored.shape))
        return value if stored.dtype is None else value.astype(np.float32)

    def whole(self, bound: Bound, shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The leaves of an entry that was saved whole; {}: it was not."""
        names = [bound.tensor(index) for index in bound.indices()]
        found = {n: self._whole(n) for n in names}
        if all(tensor is None for tensor in found.values()):
            return {}
        for name, tensor in found.items():
            if tensor is None or tensor.shape != bound.shape:
                shape = "missing" if tensor is None else tensor.shape
                raise ValueError(
                    f"{self.path / WEIGHTS}: {name!r} is {shape}; the model wants "
                    f"{bound.shape}"
                )
        leaves = {}
        for path, view in zip(bound.paths, bound.views, strict=True):
            shape = shapes[path]
            inner = shape[len(bound.stacked) :]
            parts = [
                view.read(found[name].__getitem__, [slice(0, n) for n in inner])
                for name in names
            ]
            leaves[path] = np.stack(parts).reshape(shape)
        return leaves

    def _whole(self, name: str) -> Any:
        module, _, suffix = name.removeprefix(self.bare).rpartition(".")
        return self.take(module, suffix)

    def rest(self) -> set[str]:
        """The tensors that nothing has read."""
        return self.tensors.keys() - self.seen

    def scale(self, module: str) -> tuple[int, float]:
        """The rank and the scale that LoRA's config gives a module."""
        rank = int(self._of_pattern("rank_pattern", module, self.fields.get("r", 8)))
        alpha = self._of_pattern("alpha_pattern", module, self.fields["lora_alpha"])
        power = 0.5 if self.fields.get("use_rslora") else 1.0
        return rank, float(alpha) / rank**power

    def _of_pattern(self, field: str, module: str, value: Any) -> Any:
        for pattern, own in (self.fields.get(field) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return own
        return value
