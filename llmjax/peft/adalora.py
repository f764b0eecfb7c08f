"""AdaLoRA: factors of low rank around a diagonal, entries of which are cut."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from llmjax.config import AdaLoRA
from llmjax.peft.matrix import MatrixMethod, Size, Spec, added
from llmjax.peft.method import Weights, check_rank

STD = 0.02  # of A and B at first
EPSILON = 1e-5  # that peft adds to the rank


@dataclasses.dataclass(frozen=True)
class Allocated(MatrixMethod):
    """x W + scale · ((x A) e) B; e begins at 0, and `allocation` cuts its entries."""

    config: AdaLoRA

    name: ClassVar[str] = "adalora"

    def specs(self, size: Size) -> dict[str, Spec]:
        rank, normal = self.config.rank, nn.initializers.normal(STD)
        check_rank(rank, *size)
        return {
            "a": Spec(normal, ("I", rank)),
            "e": Spec(nn.initializers.zeros, (rank,)),
            "b": Spec(normal, (rank, "O")),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        return y + self._scale * added(x, w["a"], w["e"], w["b"])

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return kernel + self._scale * (w["a"] * w["e"]) @ w["b"]

    @property
    def _scale(self) -> float:
        return self.config.alpha / (self.config.rank + EPSILON)
