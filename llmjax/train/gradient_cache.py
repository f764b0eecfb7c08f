"""Gradient caching: a loss that compares all rows of a batch, in microbatches.

The outputs of each microbatch are computed and their activations thrown away; the loss
of all outputs gives each microbatch's its gradient; then each is computed again, with
the same dropout, and that gradient carried on to the weights (Gao et al. 2021,
arXiv:2101.06983). So the activations of one microbatch are held at a time.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.tasks.task import Composed, Loss
from llmjax.train.microbatches import deal
from llmjax.train.state import float32


def cached(loss: Loss, microbatches: int) -> Loss:
    """`loss` in microbatches, whose gradient needs the memory of one.

    Args:
      loss: a `Composed` one, not wrapped.
      microbatches: that divide the rows of a batch.

    Raises:
      ValueError: a loss whose outputs and score are not apart.
    """
    if not isinstance(loss, Composed):
        raise ValueError(
            f"the task compares the rows of a batch, and layout.microbatches="
            f"{microbatches} computes them apart, which the loss that was given does "
            "not allow; set it to 1, or give `loss_of`"
        )

    def call(params, frozen, extra, batch, rng):
        if rng is None:
            return loss(params, frozen, extra, batch, rng)
        types = jax.tree.map(lambda x: x.dtype, params)
        wide = float32(params)  # so that gradients are summed in it

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def outputs(wide, rows, index):
            own = jax.tree.map(lambda x, dtype: x.astype(dtype), wide, types)
            return loss.outputs(own, frozen, rows, jax.random.fold_in(rng, index))

        def body(_, inputs):
            return None, outputs(wide, *inputs)

        inputs = deal(batch, microbatches), jnp.arange(microbatches)
        _, dealt = jax.lax.scan(body, None, inputs)
        tree = jax.tree.map(_gathered, dealt)
        return *loss.score(tree, batch, training=True), extra

    return call


def _gathered(x: Any) -> jax.Array:
    """The reverse of `deal`: [k, b, …] as [B, …], in the order of the batch."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
