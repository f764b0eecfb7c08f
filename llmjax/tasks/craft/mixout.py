"""Mixout: some entries of the weights are, for a step, those that the run began with.

Lee et al. 2020, arXiv:1909.11299: W = u + (m (w - u)) / (1 - p), where m is 0 with
probability p and 1 else, w the weights and u the first ones; so E[W] = w.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.models.forward import REFERENCE
from llmjax.tasks.task import Loss, Params

MASKS = 2**32 - 5  # place of the masks' draw among a microbatch's keys


def mixed(
    params: Params, first: Params, share: float, names: Collection[str], key: Any
) -> Params:
    """`params` with a share of the entries of some from `first`.

    Args:
      params, first: weights of one structure.
      share: of the entries, below 1.
      names: of the weights that are mixed, as "transformer/stack/…/kernel".
      key: of the masks; each weight has its own.
    """
    order = {name: k for k, name in enumerate(sorted(names))}

    def one(path: Any, own: jax.Array, before: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in order:
            return own
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, order[name]), 1 - share, own.shape
        )
        change = jnp.where(kept, own - before, 0) / (1 - share)
        return (before + change).astype(own.dtype)

    return jax.tree_util.tree_map_with_path(one, params, first)


def mixout(loss: Loss, share: float, names: Collection[str], reads: bool) -> Loss:
    """`loss` of mixed weights; an evaluation's are whole.

    Args:
      loss: any.
      share, names: as `mixed`'s.
      reads: whether the task itself reads the weights that the run began with.
    """

    def call(params, frozen, extra, batch, rng):
        rest = dict(frozen)
        first = rest.pop(REFERENCE)
        frozen = frozen if reads else rest
        if rng is not None:
            key = jax.random.fold_in(rng, MASKS)
            params = mixed(params, first, share, names, key)
        return loss(params, frozen, extra, batch, rng)

    return call
