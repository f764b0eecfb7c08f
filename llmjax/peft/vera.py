"""VeRA: random factors of low rank, which stay, and trained vectors."""

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import VeRA
from llmjax.peft.matrix import MatrixMethod, Size, Spec, added
from llmjax.peft.method import Init, Weights


@dataclasses.dataclass(frozen=True)
class RandomFactors(MatrixMethod):
    """x W + ((x A) d) B b.

    Each matrix has a copy of its corner of A and B, which a checkpoint holds once for
    all of a run's steps.
    """

    config: VeRA

    name: ClassVar[str] = "vera"
    fixed: ClassVar[tuple[str, ...]] = ("a", "b")

    def specs(self, size: Size) -> dict[str, Spec]:
        config = self.config
        rank, initial = config.rank, nn.initializers.constant(config.initial)
        a, b = jax.random.split(jax.random.key(config.seed))
        return {
            "a": Spec(corner(a, size.inputs, rank, 0, size.inputs), ("I", rank)),
            "b": Spec(corner(b, size.outputs, rank, 1, rank), (rank, "O")),
            "inner": Spec(initial, (rank,)),
            "outer": Spec(nn.initializers.zeros, ("O",)),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        return y + added(x, w["a"], w["inner"], w["b"], w["outer"])

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return kernel + (w["a"] * w["inner"]) @ (w["b"] * w["outer"])


def corner(key: Any, features: int, rank: int, axis: int, fan: int) -> Init:
    """Uniform in ±sqrt(6 / fan) (He et al. 2015), whatever key a matrix is given.

    A matrix of more features begins with the draws of one that has fewer.

    Args:
      key: of the draws.
      features, rank: of the matrix.
      axis: of the features: 0 or 1.
      fan: inputs of the product.
    """

    def init(_: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(features))
        rows = jax.vmap(lambda k: jax.random.uniform(k, (rank,), dtype, -1, 1))(keys)
        flat = (rows if axis == 0 else rows.T).reshape(-1) * (6 / fan) ** 0.5
        copies = math.prod(shape) // flat.size  # experts have one each
        return jnp.broadcast_to(flat, (copies, flat.size)).reshape(shape)

    return init
