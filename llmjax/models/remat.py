"""What the backward pass finds kept, brought to the host, or computes again."""

from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from llmjax.config import LayoutConfig


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, which `layout.saved` and `layout.offloaded` may call by this name."""
    return checkpoint_name(x, name)


@jax.custom_vjp
def differentiated_once(x: jax.Array) -> jax.Array:
    """`x`, whose gradient is computed once, not again in each matmul that reads it.

    XLA for TPU fuses what is element-wise into the matmuls after it: two backward ones
    read the gradient of an activation function, and are half as slow again for it.
    """
    return x


def _barrier(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.optimization_barrier(gradient),)


differentiated_once.defvjp(lambda x: (x, None), _barrier)


def row_major(x: jax.Array) -> jax.Array:
    """`x` in memory with its last axis innermost.

    XLA for TPU may otherwise stack the layers' inputs with T innermost, and turn each
    of them round where the backward pass reads it.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def remat(body: Any, layout: LayoutConfig, *, looped: bool) -> Any:
    """The module class `body`, computed again backward as `layout.remat` says.

    Args:
      body: a class of Linen modules.
      layout: "full" keeps its inputs alone, "dots" its matmuls without batch
        dimensions, "names" what `saved` and `offloaded` name.
      looped: it runs in a loop; without one nothing else keeps XLA from undoing it.
    """
    if layout.remat == "none":
        return body
    return nn.remat(body, policy=policy(layout), prevent_cse=not looped)


def policy(layout: LayoutConfig) -> Any:
    """Of `jax.checkpoint`; None keeps nothing."""
    policies = jax.checkpoint_policies
    if layout.remat == "dots":
        return policies.dots_with_no_batch_dims_saveable
    if layout.remat == "names":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=list(layout.saved),
            names_which_can_be_offloaded=list(layout.offloaded),
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None
