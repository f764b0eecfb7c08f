"""C3A: a change of circulant blocks, by Fourier transforms."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import C3A
from llmjax.peft.matrix import MatrixMethod, Size, Spec, check_divides
from llmjax.peft.method import Weights


@dataclasses.dataclass(frozen=True)
class Circulant(MatrixMethod):
    """x W + x C / inputs; the blocks of C begin at 0."""

    config: C3A

    name: ClassVar[str] = "c3a"

    def specs(self, size: Size) -> dict[str, Spec]:
        block, (inputs, outputs, path) = self.config.block_size, size
        check_divides("block_size", block, inputs, "inputs", path)
        check_divides("block_size", block, outputs, "outputs", path)
        shape = outputs // block, inputs // block, block
        return {"kernel": Spec(nn.initializers.zeros, shape)}

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        return y + correlated(x, w["kernel"]).astype(y.dtype)

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return kernel + correlated(jnp.eye(len(kernel)), w["kernel"])


def correlated(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Circular correlations of x's pieces with a kernel each, summed, over inputs.

    Args:
      x: [..., I].
      kernel: [O / b, I / b, b].
    """
    _, pieces, block = kernel.shape
    parts = x.astype(jnp.float32).reshape(*x.shape[:-1], pieces, block)
    waves, own = jnp.fft.rfft(parts), jnp.conj(jnp.fft.rfft(kernel))
    summed = jnp.einsum("...nf,mnf->...mf", waves, own)
    y = jnp.fft.irfft(summed, block)
    return y.reshape(*x.shape[:-1], -1) / x.shape[-1]
