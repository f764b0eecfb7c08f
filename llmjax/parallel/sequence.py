"""Sequence parallelism: tokens over the tensor axis, between attention and MLP.

Korthikanti et al. 2022, arXiv:2205.05198: the output of a branch is scattered over the
axis as it is summed, and gathered for the next branch. As many bytes move as without;
the activations between branches, kept for the backward pass, are sharded.
"""

import flax.linen as nn
import jax
from jax.sharding import Mesh

from llmjax.config import LayoutConfig
from llmjax.parallel.manual import axis_size


def check(layout: LayoutConfig, seq_len: int, mesh: Mesh) -> None:
    """Checks that the tokens of a row divide, before anything is traced.

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


def scattered(x_BTD: jax.Array, layout: LayoutConfig) -> jax.Array:
    """`x_BTD` with its tokens over `tensor` too, as it lies between branches."""
    return _constrained(x_BTD, layout, "act_T_D")


def gathered(x_BTD: jax.Array, layout: LayoutConfig) -> jax.Array:
    """`x_BTD` with all tokens on each device of `tensor`, as branches read it."""
    return _constrained(x_BTD, layout, "act_T")


def _constrained(x_BTD: jax.Array, layout: LayoutConfig, tokens: str) -> jax.Array:
    """`x_BTD` with its tokens on the mesh axes of the logical axis `tokens`.

    Unchanged without sequence parallelism, or where tokens don't divide, as an
    encoder's or one decoded token may not (`check` refuses a training row's).
    """
    tensor = axis_size("tensor")
    divides = x_BTD.shape[1] % (axis_size("sequence") * tensor) == 0
    if not (layout.context.sequence_parallel and tensor > 1 and divides):
        return x_BTD
    return nn.with_logical_constraint(x_BTD, ("act_B", tokens, "act_D"))
