"""Losses over classes, with weights of classes and the focal factor."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_TINY = 1e-12  # below it a power of a probability has no slope


def focal(log_p: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p)^gamma log p (Lin et al. 2017, arXiv:1708.02002, 5)."""
    if not gamma:
        return -log_p
    rest = jnp.maximum(-jnp.expm1(log_p), _TINY)
    return -(rest**gamma) * log_p


def single_label(
    logits: Float[Array, "*texts C"],
    label: Int[Array, "*texts"],
    weights: Sequence[float] = (),
    gamma: float = 0.0,
    smoothing: float = 0.0,
) -> tuple[Float[Array, "*texts"], Float[Array, "*texts"]]:
    """The loss of one class of several, and its weight, for each text.

    The sum over classes of q w (1 - p)^gamma (-log p), q being the smoothed target. The
    sum of losses over the sum of weights is torch's `CrossEntropyLoss` of these weights
    and this `label_smoothing`, where gamma is 0.

    Args:
      logits, label: of each text.
      weights: by class; (): 1 each.
      gamma: see `focal`.
      smoothing: share of the target that is spread evenly over all classes.
    """
    C = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jnp.asarray(weights, jnp.float32) if weights else jnp.ones(C, jnp.float32)
    target = jax.nn.one_hot(label, C) * (1 - smoothing) + smoothing / C
    # a class of no probability and no share of the target costs nothing
    costs = jnp.where(target > 0, own * focal(log_p, gamma), 0.0)
    return jnp.sum(target * costs, axis=-1), own[label]


def multi_label(
    logits: Float[Array, "*texts C"],
    target: Float[Array, "*texts C"],
    weights: Sequence[float] = (),
    gamma: float = 0.0,
    smoothing: float = 0.0,
) -> Float[Array, "*texts"]:
    """The mean over classes of binary cross entropies, for each text.

    Their mean over texts is torch's `BCEWithLogitsLoss` with `pos_weight`, where gamma
    is 0 and nothing is smoothed.

    Args:
      logits: of each class's presence.
      target: 1 where a class is there, 0 elsewhere.
      weights: of presence, by class; (): 1 each.
      gamma: see `focal`.
      smoothing: the share of both targets that becomes a half.
    """
    logits = logits.astype(jnp.float32)
    own = jnp.asarray(weights, jnp.float32) if weights else 1.0
    there = target * (1 - smoothing) + smoothing / 2
    costs = there * own * focal(jax.nn.log_sigmoid(logits), gamma)
    costs += (1 - there) * focal(jax.nn.log_sigmoid(-logits), gamma)
    return jnp.mean(costs, axis=-1)
