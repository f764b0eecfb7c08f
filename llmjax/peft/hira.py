"""HiRA: the matrix times a matrix of low rank, entry by entry."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from llmjax.config import HiRA
from llmjax.peft.matrix import MatrixMethod, Size, Spec, uniform
from llmjax.peft.method import Weights, check_rank


@dataclasses.dataclass(frozen=True)
class Hadamard(MatrixMethod):
    """x W + x (W ⊙ A B); B begins at 0."""

    config: HiRA

    name: ClassVar[str] = "hira"

    def specs(self, size: Size) -> dict[str, Spec]:
        rank = self.config.rank
        check_rank(rank, *size)
        return {
            "a": Spec(uniform(size.inputs), ("I", rank)),
            "b": Spec(nn.initializers.zeros, (rank, "O")),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        change = kernel * (w["a"] @ w["b"]).astype(kernel.dtype)
        return y + x @ change

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return kernel + kernel * (w["a"] @ w["b"])
