"""Where adapters are in peft's format: adapter_config.json and a safetensors file.

A matrix of ours is one of the hub's, or a part of a fused one (GPT-2's c_attn). Of a
fused one the factors of all parts are written as one pair: A's below each other, B's in
blocks, so that it has as many times their rank; read, each part gets all of A and its
own rows of B.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import einops
import flax.linen as nn
import numpy as np

from llmjax.hub.binding import Bound, View, bind
from llmjax.hub.load import BATCH, abstract
from llmjax.hub.meaning import simplest
from llmjax.hub.save import family_of
from llmjax.hub.table import Table
from llmjax.models.layers import Projection
from llmjax.peft.adapted import matrices
from llmjax.peft.method import letters, matches, sizes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Place:
    """A matrix of the hub that adapters may be put on.

    Attributes:
      name: the hub's, without ".weight", with {l} and {e}.
      bound: its entry.
      modules: our projections in it.
    """

    name: str
    bound: Bound
    modules: tuple[Projection, ...]

    def named(self, bare: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
        """The hub's names of its modules, and their indices along L and E.

        Args:
          bare: prefix that a bare model's names go without.
        """
        for index in self.bound.indices():
            name = self.bound.tensor(index).removesuffix(".weight")
            yield name.removeprefix(bare), index

    def inner(self, k: int) -> list[str]:
        """The letters of the k-th part's axes that are summed over."""
        axes = letters(self.modules[k])
        kernel = axes.shared + axes.inner + axes.outer
        ours = self.bound.views[k].ours
        lost = len(kernel) - len(ours)  # experts, which are apart at the hub
        return [ours[i - lost][0] for i, a in enumerate(kernel) if a in axes.inner]

    def input_axis(self, k: int) -> int:
        """The place, 0 or 1, of the k-th part's input among the hub's axes.

        Raises:
          ValueError: an axis that is both.
        """
        view, inner = self.bound.views[k], set(self.inner(k))
        for i, axis in enumerate(view.theirs):
            if set(axis) - {"1"} <= inner:
                return i
        raise ValueError(f"peft's format holds no adapter of {self.name}")

    @property
    def plain(self) -> bool:
        """Whether the hub's matrix is one of ours alone, its features in our order."""
        if len(self.modules) > 1:
            return False
        inner = sizes(self.modules[0], letters(self.modules[0]).inner)
        outer = sizes(self.modules[0], letters(self.modules[0]).outer)
        inputs = np.arange(math.prod(inner))
        outputs = np.arange(math.prod(outer))
        a = self.a_to_theirs(0, inputs.reshape(*inner, 1))
        b = self.b_to_theirs([outputs.reshape(1, *outer)])
        return bool((a[0] == inputs).all() and (b[:, 0] == outputs).all())

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the hub's matrix."""
        first, second = self.bound.shape
        return (second, first) if self.input_axis(0) == 0 else (first, second)

    def length(self, k: int, kernel: np.ndarray) -> np.ndarray:
        """The lengths of the k-th part's columns, [*outer]."""
        inner = tuple(range(len(self.inner(k))))
        return np.sqrt(np.sum(np.square(kernel.astype(np.float32)), axis=inner))

    def a_to_theirs(self, k: int, a: np.ndarray) -> np.ndarray:
        """[*inner, R] -> [R, inputs]."""
        ours, theirs, sizes = self._a(k)
        return einops.rearrange(a, f"{ours} -> {theirs}", **sizes)

    def a_to_ours(self, k: int, a: np.ndarray) -> np.ndarray:
        """[R, inputs] -> [*inner, R]."""
        ours, theirs, sizes = self._a(k)
        return einops.rearrange(a, f"{theirs} -> {ours}", **sizes)

    def _a(self, k: int) -> tuple[str, str, dict[str, int]]:
        inner, view = self.inner(k), self.bound.views[k]
        theirs = [a for a in view.theirs[self.input_axis(k)] if a != "1"]
        sizes = {a: view.sizes[a] for a in inner}
        return f"{' '.join(inner)} rank", f"rank ({' '.join(theirs)})", sizes

    def b_to_theirs(self, bs: list[np.ndarray]) -> np.ndarray:
        """[R, *outer] of all parts -> [outputs, R]."""
        rank = len(bs[0])
        kernels = [b.reshape(self._as_kernel(k, rank)) for k, b in enumerate(bs)]
        tensor = self._of_rank(rank).join(kernels)
        return tensor.T if self.input_axis(0) == 0 else tensor

    def b_to_ours(self, k: int, b: np.ndarray) -> np.ndarray:
        """[outputs, R] -> [R, *outer] of the k-th part."""
        rank = b.shape[1]
        tensor = b.T if self.input_axis(0) == 0 else b
        view = self._of_rank(rank).views[k]
        shape = self._as_kernel(k, rank)
        kernel = view.read(lambda s: tensor[s], [slice(0, n) for n in shape])
        outer = kernel.shape[len(self.inner(k)) :]
        return kernel.reshape(rank, *outer)

    def _as_kernel(self, k: int, rank: int) -> tuple[int, ...]:
        """The shape of a kernel with `rank` inputs."""
        view = self._of_rank(rank).views[k]
        return tuple(math.prod(view.sizes[a] for a in axis) for axis in view.ours)

    def _of_rank(self, rank: int) -> Bound:
        """The entry of matrices with `rank` inputs."""

        def view(k: int) -> View:
            old, inner = self.bound.views[k], self.inner(k)
            ones = dict.fromkeys(inner[1:], 1)
            sizes = {**old.sizes, **ones, inner[0]: rank}
            new = dataclasses.replace(old, sizes=sizes)
            if self.input_axis(k) == 0:  # of a matrix that isn't fused along inputs
                new = dataclasses.replace(new, total=new.length)
            return new

        views = tuple(view(k) for k in range(len(self.bound.views)))
        return dataclasses.replace(self.bound, views=views)


def places(table: Table, model: nn.Module) -> list[Place]:
    """The places of a model's matrices."""
    shapes = abstract(model)[0]
    modules = matrices(model, BATCH)
    found = []
    for bound in bind(table, shapes):
        kernels = [path.removesuffix("/kernel") for path in bound.paths]
        if len(bound.shape) != 2 or "{e}" in bound.name:  # experts: no Linear of torch
            continue
        if all(kernel in modules for kernel in kernels):
            parts = tuple(modules[kernel] for kernel in kernels)
            found.append(Place(bound.name.removesuffix(".weight"), bound, parts))
    return found


def our_names(model: Any, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Targets of adapters with the hub's names of matrices ("q_proj") as ours.

    A target of ours, and what is no name of the model's family, stays as it is.
    """
    own = matrices(model, BATCH)
    if all(any(matches(path, (target,)) for path in own) for target in targets):
        return targets
    try:
        family = family_of(model)
    except ValueError:
        return targets
    there = places(family.table(simplest(model.cfg)), model)

    def named(target: str) -> list[str]:
        if any(matches(path, (target,)) for path in own):
            return [target]
        found = [p for p in there if f".{p.name}".endswith(f".{target}")]
        return [path.removesuffix("/kernel") for p in found for path in p.bound.paths]

    ours = (named(target) or [target] for target in targets)
    return tuple(dict.fromkeys(name for names in ours for name in names))
