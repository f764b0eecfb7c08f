"""Activations for the backward pass: kept, moved to the host, or computed again."""

from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from llmjax.config import DotsRemat, LayoutConfig, NamesRemat, NoRemat


def named(x: jax.Array, name: str) -> jax.Array:
    """`x` under a name that `layout.remat.saved` and `.offloaded` may have."""
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
    """The module class `body`, rematerialized backward as `layout.remat` says.

    Args:
      body: a class of Linen modules.
      layout: of the run.
      looped: it runs in a loop; without one nothing else keeps XLA from undoing it.
    """
    if isinstance(layout.remat, NoRemat):
        return body
    return nn.remat(body, policy=policy(layout), prevent_cse=not looped)


def policy(layout: LayoutConfig) -> Any:
    """The policy of `jax.checkpoint`; None keeps nothing but a layer's input."""
    policies = jax.checkpoint_policies
    match layout.remat:
        case DotsRemat():
            return policies.dots_with_no_batch_dims_saveable
        case NamesRemat(saved, offloaded):
            return policies.save_and_offload_only_these_names(
                names_which_can_be_saved=list(saved),
                names_which_can_be_offloaded=list(offloaded),
                offload_src="device",
                offload_dst="pinned_host",
            )
    return None
