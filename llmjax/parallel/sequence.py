"""Sequence parallelism: tokens over the tensor axis, between attention and MLP.

Korthikanti et al. 2022, arXiv:2205.05198: what a branch adds is scattered over the
axis as it is summed, and gathered again for the next one. As many bytes move as
without; what lies between, with what the backward pass keeps of it, is cut.
"""

import flax.linen as nn
import jax
from jax.sharding import Mesh

from llmjax.config import LayoutConfig
from llmjax.parallel.manual import axis_size


def check(layout: LayoutConfig, seq_len: int, mesh: Mesh) -> None:
    """A clear error for tokens that do not divide, before anything is traced.

    Raises:
      ValueError: naming the field and the remedy.
    """
    parts = mesh.shape["sequence"] * mesh.shape["tensor"]
    if layout.context.sequence_parallel and seq_len % parts:
        raise ValueError(
            f"data.seq_len={seq_len} does not divide over layout.sequence x "
            f"layout.tensor={parts}, as layout.context.sequence_parallel asks; make it "
            f"a multiple of {parts}, or sequence_parallel False"
        )


def residual(x_BTD: jax.Array, layout: LayoutConfig) -> jax.Array:
    """`x_BTD` with its tokens over `tensor` too."""
    return _laid(x_BTD, layout, "act_T_D")


def whole(x_BTD: jax.Array, layout: LayoutConfig) -> jax.Array:
    """`x_BTD` as a branch reads it: on each device of `tensor` all tokens."""
    return _laid(x_BTD, layout, "act_T")


def _laid(x_BTD: jax.Array, layout: LayoutConfig, tokens: str) -> jax.Array:
    """Unchanged where `layout` does not ask for it, or tokens do not divide: those of
    an encoder, or new ones while decoding (`check` refuses a training row's)."""
    tensor = axis_size("tensor")
    divides = x_BTD.shape[1] % (axis_size("sequence") * tensor) == 0
    if not (layout.context.sequence_parallel and tensor > 1 and divides):
        return x_BTD
    return nn.with_logical_constraint(x_BTD, ("act_B", tokens, "act_D"))
