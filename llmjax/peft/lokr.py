"""LoKr: a Kronecker product of two small matrices."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LoKr
from llmjax.peft.matrix import MatrixMethod, Size, Spec, uniform
from llmjax.peft.method import Weights


@dataclasses.dataclass(frozen=True)
class Kronecker(MatrixMethod):
    """x W + scale · x (W₁ ⊗ W₂)ᵀ, W₁ [o, i] and W₂ [p, j] for O = o p and I = i j.

    A factor may be a product of two; W₁, or its first one, begins at 0. The Kronecker
    product is not formed: x is multiplied by one factor along each of its two axes.
    """

    config: LoKr

    name: ClassVar[str] = "lokr"

    def specs(self, size: Size) -> dict[str, Spec]:
        config = self.config
        i, j = divided(size.inputs, config.factor)
        o, p = divided(size.outputs, config.factor)
        rank, zeros = config.rank, nn.initializers.zeros
        out: dict[str, Spec] = {}
        if config.decompose_both and rank < max(o, i) / 2:
            out["w1_a"] = Spec(zeros, (o, rank))
            out["w1_b"] = Spec(uniform(i), (rank, i))
        else:
            out["w1"] = Spec(zeros, (o, i))
        if rank < max(p, j) / 2:
            out["w2_a"] = Spec(uniform(rank), (p, rank))
            out["w2_b"] = Spec(uniform(j), (rank, j))
        else:
            out["w2"] = Spec(uniform(j), (p, j))
        return out

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        first, second = (f.astype(x.dtype) for f in factors(w))
        pieces = x.reshape(*x.shape[:-1], first.shape[1], second.shape[1])
        turned = jnp.einsum("...ij,pj->...ip", pieces, second)
        result = jnp.einsum("...ip,oi->...op", turned, first)
        return y + self.config.scale * result.reshape(y.shape)

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return kernel + self.config.scale * jnp.kron(*factors(w)).T


def factors(w: Weights) -> tuple[jax.Array, jax.Array]:
    """W₁ and W₂."""
    first = w["w1"] if "w1" in w else w["w1_a"] @ w["w1_b"]
    second = w["w2"] if "w2" in w else w["w2_a"] @ w["w2_b"]
    return first, second


def divided(size: int, factor: int | None) -> tuple[int, int]:
    """Two numbers whose product is `size`, as LyCORIS and peft choose them.

    `factor` and the rest, where it divides `size`; else the divisors next to the square
    root, the smaller one, which is at most `factor`, first.
    """
    if factor and size % factor == 0:
        return factor, size // factor
    largest = min(factor or size, math.isqrt(size))
    smaller = next(n for n in range(largest, 0, -1) if size % n == 0)
    return smaller, size // smaller
