"""HRA: inputs reflected a few times before the matrix."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from llmjax.config import HRA
from llmjax.peft.matrix import MatrixMethod, Size, Spec, uniform
from llmjax.peft.method import Weights


@dataclasses.dataclass(frozen=True)
class Reflected(MatrixMethod):
    """(x Hᵣ … H₁) W, Hᵢ = I - 2 u uᵀ / |u|²; columns u begin in equal pairs."""

    config: HRA

    name: ClassVar[str] = "hra"
    neutral: ClassVar[Mapping[str, float]] = {"u": 1.0}  # equal pairs do nothing

    def specs(self, size: Size) -> dict[str, Spec]:
        rank = self.config.rank
        if rank > size.inputs:
            raise ValueError(
                f"peft.rank={rank} is more than the {size.inputs} inputs of "
                f"{size.path}; set it to {size.inputs} at most, or leave the matrix "
                "out by peft.exclude"
            )
        draw = uniform(rank // 2)

        def pairs(key: Any, shape: tuple[int, ...]) -> jax.Array:
            return jnp.repeat(draw(key, (*shape[:-1], rank // 2)), 2, axis=-1)

        return {"u": Spec(pairs, ("I", rank))}

    def before(self, x: jax.Array, w: Weights) -> jax.Array:
        u, inverse = compact(w["u"])
        low = x @ u.astype(x.dtype)
        return x - low @ (u @ inverse).T.astype(x.dtype)

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        u, inverse = compact(w["u"])
        return kernel - u @ (inverse.T @ (u.T @ kernel))


def compact(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns of length 1 and T, so that H₁ … Hᵣ = I - U T Uᵀ.

    The compact form of a product of reflections (Joffrain et al. 2006): T⁻¹ is the
    upper triangle of Uᵀ U, its diagonal halved.
    """
    u = u / jnp.linalg.norm(u, axis=0)
    gram = u.T @ u
    triangle = jnp.triu(gram, 1) + 0.5 * jnp.eye(len(gram))
    one = jnp.eye(len(gram))
    return u, jax.scipy.linalg.solve_triangular(triangle, one, lower=False)
