"""OFT: inputs turned by orthogonal blocks before the matrix."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import OFT
from llmjax.peft.matrix import MatrixMethod, Size, Spec, check_divides
from llmjax.peft.method import Weights


@dataclasses.dataclass(frozen=True)
class Rotated(MatrixMethod):
    """(x R) W; R's blocks come of skew-symmetric ones, which begin at 0."""

    config: OFT

    name: ClassVar[str] = "oft"

    def specs(self, size: Size) -> dict[str, Spec]:
        block = self.config.block_size
        check_divides("block_size", block, size.inputs, "inputs", size.path)
        if block < 2:
            raise ValueError(
                f"peft.block_size={block} leaves nothing to turn; set it to 2 or more"
            )
        count = 1 if self.config.share else size.inputs // block
        zeros = nn.initializers.zeros
        return {"upper": Spec(zeros, (count, block * (block - 1) // 2))}

    def before(self, x: jax.Array, w: Weights) -> jax.Array:
        return turn(x, self._blocks(w, x.shape[-1]).astype(x.dtype))

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        blocks = self._blocks(w, len(kernel))
        return turn(kernel.T, jnp.swapaxes(blocks, -1, -2)).T

    def _blocks(self, w: Weights, inputs: int) -> jax.Array:
        size = self.config.block_size
        blocks = rotations(w["upper"], size, self.config.terms)
        return jnp.broadcast_to(blocks, (inputs // size, size, size))


def turn(x: jax.Array, blocks: jax.Array) -> jax.Array:
    """[..., I] times a matrix of blocks along its diagonal."""
    pieces = x.reshape(*x.shape[:-1], len(blocks), -1)
    return jnp.einsum("...pa,pab->...pb", pieces, blocks).reshape(x.shape)


def rotations(upper: jax.Array, size: int, terms: int | None) -> jax.Array:
    """Orthogonal matrices of skew-symmetric ones, [blocks, size, size].

    Args:
      upper: entries above the diagonal of Q, row by row, [blocks, size (size-1) / 2].
      size: of a block.
      terms: see `OFT`; the series is of -Q, as in peft.
    """
    rows, columns = np.triu_indices(size, 1)
    q = jnp.zeros((len(upper), size, size)).at[:, rows, columns].set(upper)
    q = q - jnp.swapaxes(q, -1, -2)
    one = jnp.eye(size)
    if terms is None:  # (I - Q)(I + Q)⁻¹, whose factors commute
        return jnp.linalg.solve(one + q, one - q)
    power, total = q, one + 2 * q
    for _ in range(2, terms - 1):
        power = power @ q
        total = total + 2 * power
    return total + power @ q
