"""PiSSA and OLoRA: factors of low rank that begin as a part of the matrix."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import PiSSA
from llmjax.peft.matrix import MatrixMethod, Size, Spec, added
from llmjax.peft.method import Weights, check_rank


@dataclasses.dataclass(frozen=True)
class Principal(MatrixMethod):
    """x W + scale · (x A B - x A₀ B₀), A₀ and B₀ what A and B were at first.

    So the base stays what it is, where peft takes A₀ B₀ off it: a checkpoint refers to
    the same base as all others, and merging gives the whole matrix.
    """

    config: PiSSA

    name: ClassVar[str] = "pissa"
    fixed: ClassVar[tuple[str, ...]] = ("a0", "b0")
    begins_at_base: ClassVar[bool] = True

    def specs(self, size: Size) -> dict[str, Spec]:
        rank, zeros = self.config.rank, nn.initializers.zeros
        check_rank(rank, *size)
        a, b = Spec(zeros, ("I", rank)), Spec(zeros, (rank, "O"))
        return {"a": a, "b": b, "a0": a, "b0": b}

    def begun(self, kernel: jax.Array) -> Weights:
        rank, scale = self.config.rank, self.config.scale
        if self.config.start == "qr":  # of W's transpose, as peft
            q, r = jnp.linalg.qr(kernel.T)
            a, b = r[:rank].T, q[:, :rank].T
        else:
            u, s, v = jnp.linalg.svd(kernel, full_matrices=False)
            root = jnp.sqrt(s[:rank] / scale)
            a, b = u[:, :rank] * root, root[:, None] * v[:rank]
        return {"a": a, "b": b, "a0": a, "b0": b}

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        moved = added(x, w["a"], w["b"]) - added(x, w["a0"], w["b0"])
        return y + self.config.scale * moved

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        moved = w["a"] @ w["b"] - w["a0"] @ w["b0"]
        return kernel + self.config.scale * moved
