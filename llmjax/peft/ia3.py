"""IA3: results or inputs of matrices times trained vectors."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import IA3
from llmjax.models.layers import Projection
from llmjax.peft.method import Weights, beside, letters, matches, names, path, sizes


@dataclasses.dataclass(frozen=True)
class Rescaled:
    """x W times a vector, or (x times a vector) W; the vectors begin as ones."""

    config: IA3

    name: ClassVar[str] = "ia3"
    fixed: ClassVar[tuple[str, ...]] = ()

    def targets(self) -> tuple[str, ...]:
        return (*self.config.outputs, *self.config.inputs)

    def selects(self, path: str) -> bool:
        return matches(path, self.targets())

    def apply(
        self, module: Projection, call: Callable[..., jax.Array], x: jax.Array | None
    ) -> jax.Array:
        axes, where = letters(module), path(module)
        of_input = matches(where, self.config.inputs)
        scaled = axes.shared + (axes.inner if of_input else axes.outer)
        if x is not None and of_input:
            x = _times(x, axes.x, self._vector(module, scaled), scaled)
            return call(x)
        y = call() if x is None else call(x)
        of_y = axes.shared + axes.inner + axes.outer if x is None else axes.y
        return _times(y, of_y, self._vector(module, scaled), scaled)

    def _vector(self, module: Projection, axes: str) -> jax.Array:
        spec = (nn.initializers.ones, names(module, axes), sizes(module, axes))
        return beside(module, self.name, vector=spec)["vector"]

    def merged(
        self, module: Projection, kernel: Any, bias: Any, weights: Weights
    ) -> tuple[Any, Any]:
        axes, vector = letters(module), weights["vector"].astype(jnp.float32)
        of_input = matches(path(module), self.config.inputs)
        scaled = axes.shared + (axes.inner if of_input else axes.outer)
        all_axes = axes.shared + axes.inner + axes.outer
        whole = _times(kernel.astype(jnp.float32), all_axes, vector, scaled)
        if bias is not None and not of_input:
            bias = (bias.astype(jnp.float32) * vector).astype(bias.dtype)
        return whole.astype(kernel.dtype), bias


def _times(x: jax.Array, axes: str, vector: jax.Array, scaled: str) -> jax.Array:
    return jnp.einsum(f"{axes},{scaled}->{axes}", x, vector.astype(x.dtype))
