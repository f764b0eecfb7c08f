"""MiSS: one block of rows, which all pieces of the input share."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import MiSS
from llmjax.peft.matrix import MatrixMethod, Size, Spec, check_divides
from llmjax.peft.method import Weights


@dataclasses.dataclass(frozen=True)
class Shards(MatrixMethod):
    """x W + (sum of x's pieces) B, or its variant "bat" that depends on W.

    B begins at 0. Rows that a last piece lacks are not read.
    """

    config: MiSS

    name: ClassVar[str] = "miss"

    def specs(self, size: Size) -> dict[str, Spec]:
        config, zeros = self.config, nn.initializers.zeros
        inputs, outputs, path = size
        rank = config.rank
        if rank > inputs:
            raise ValueError(
                f"peft.rank={rank} is more than the {inputs} inputs of {path}; set it "
                f"to {inputs} at most, or leave the matrix out by peft.exclude"
            )
        if config.variant == "bat":
            check_divides("rank", rank, inputs, "inputs", path)
            check_divides("rank", rank, outputs, "outputs", path)
            return {"block": Spec(zeros, (outputs // rank, rank, rank))}
        if config.variant == "mini":
            check_divides("width", config.width, outputs, "outputs", path)
            return {"block": Spec(zeros, (rank, config.width))}
        return {"block": Spec(zeros, (rank, "O"))}

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        block = w["block"].astype(y.dtype)
        if self.config.variant == "bat":
            return y + x @ turned(kernel, block)
        rank = len(block)
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % rank)])
        pieces = padded.reshape(*x.shape[:-1], -1, rank)
        low = pieces.sum(-2) @ block
        return y + jnp.tile(low, y.shape[-1] // low.shape[-1])

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        block, (inputs, outputs) = w["block"], kernel.shape
        if self.config.variant == "bat":
            return kernel + turned(kernel, block)
        down, across = -(-inputs // len(block)), outputs // block.shape[1]
        return kernel + jnp.tile(block, (down, across))[:inputs]


def turned(kernel: jax.Array, block: jax.Array) -> jax.Array:
    """The change of "bat": W's blocks times B's, plus B's.

    Args:
      kernel: [I, O].
      block: [O / r, r, r], of each piece of the outputs.
    """
    r = block.shape[-1]
    pieces = kernel.reshape(-1, r, len(block), r)  # inputs' piece and b, outputs' p, a
    change = jnp.einsum("qbpa,pbc->qcpa", pieces, block)
    return (change + jnp.einsum("pac->cpa", block)).reshape(kernel.shape)
