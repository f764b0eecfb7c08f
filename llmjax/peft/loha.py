"""LoHa: the entrywise product of two matrices of low rank."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LoHa
from llmjax.peft.matrix import MatrixMethod, Size, Spec, added, uniform
from llmjax.peft.method import Weights, check_rank


@dataclasses.dataclass(frozen=True)
class HadamardPair(MatrixMethod):
    """x W + scale · x (A₁ B₁ ⊙ A₂ B₂); A₂ begins at 0.

    The product of the two is A B, of rank²: columns of A are A₁'s times A₂'s. It is
    multiplied by x as such, or formed where that is less work.
    """

    config: LoHa

    name: ClassVar[str] = "loha"

    def specs(self, size: Size) -> dict[str, Spec]:
        rank = self.config.rank
        check_rank(rank, *size)
        return {
            "a1": Spec(uniform(size.inputs), ("I", rank)),
            "b1": Spec(uniform(rank), (rank, "O")),
            "a2": Spec(nn.initializers.zeros, ("I", rank)),
            "b2": Spec(uniform(rank), (rank, "O")),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        inputs, outputs = kernel.shape
        if self.config.rank**2 * (inputs + outputs) > inputs * outputs:
            return y + self.config.scale * added(x, self._change(w))
        a = jnp.einsum("ir,is->irs", w["a1"], w["a2"]).reshape(inputs, -1)
        b = jnp.einsum("ro,so->rso", w["b1"], w["b2"]).reshape(-1, outputs)
        return y + self.config.scale * added(x, a, b)

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return kernel + self.config.scale * self._change(w)

    def _change(self, w: Weights) -> jax.Array:
        return (w["a1"] @ w["b1"]) * (w["a2"] @ w["b2"])
