"""DeLoRA: a change of low rank whose size is a weight of its own."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import DeLoRA
from llmjax.peft.matrix import MatrixMethod, Size, Spec, added, uniform
from llmjax.peft.method import Weights, check_rank

SHORTEST = 1e-4  # a length that is divided by; B begins at 0


@dataclasses.dataclass(frozen=True)
class Decoupled(MatrixMethod):
    """x W + (x ⊙ |W|) A diag(λ / (rank |a||b|)) B, |W| of each input's row.

    W is frozen, and so is |W|; no gradient goes to it.
    """

    config: DeLoRA

    name: ClassVar[str] = "delora"

    def specs(self, size: Size) -> dict[str, Spec]:
        rank, bound = self.config.rank, self.config.bound
        check_rank(rank, *size)
        return {
            "a": Spec(uniform(size.inputs), ("I", rank)),
            "b": Spec(nn.initializers.zeros, (rank, "O")),
            "bound": Spec(nn.initializers.constant(bound), (1,)),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        return y + added(x, lengths(kernel), w["a"], self._factor(w), w["b"])

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        change = (w["a"] * self._factor(w)) @ w["b"]
        return kernel + lengths(kernel)[:, None] * change

    def _factor(self, w: Weights) -> jax.Array:
        """λ / (rank |a||b|) of each column of A and row of B."""
        a, b = _length(w["a"], 0), _length(w["b"], 1)
        return w["bound"] / (self.config.rank * a * b)


def lengths(kernel: jax.Array) -> jax.Array:
    """The length of each input's row, in float32."""
    square = jnp.square(kernel.astype(jnp.float32)).sum(1)
    return jax.lax.stop_gradient(jnp.sqrt(square))


def _length(vectors: jax.Array, axis: int) -> jax.Array:
    square = jnp.square(vectors).sum(axis)
    return jnp.sqrt(jnp.maximum(square, SHORTEST**2))  # with a gradient at 0
