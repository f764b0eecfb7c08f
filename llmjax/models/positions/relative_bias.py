"""T5's relative positions: a trained bias for each head and bucket of distances."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.layers import table
from llmjax.models.positions.scheme import Bias, Scheme, Scores


class RelativeBiasScheme(Scheme):
    """Raffel et al. 2020, arXiv:1910.10683, 2.1; one table for all layers, or each."""

    def shared(self, owner: nn.Module) -> Any:
        return None if self.config.per_layer else self._table(owner)

    def _table(self, owner: nn.Module) -> Any:
        """[buckets, N]."""
        shape, axes = (self.config.buckets, self.cfg.num_heads), (None, "N")
        std = self.cfg.init_std
        return table(owner, "bias_table", "BTSX,XN->BTSN", shape, axes, std)

    def scores(self, scores: Scores) -> tuple[jax.Array, Bias | None]:
        own = self.config.per_layer
        return scores.q_BTNH, functools.partial(
            relative_bias,
            table_XN=self._table(scores.attention) if own else scores.shared,
            max_distance=self.config.max_distance,
            bidirectional=not scores.causal,
        )


def relative_bias(
    q_BT: jax.Array,
    k_BS: jax.Array,
    table_XN: jax.Array,
    max_distance: int,
    bidirectional: bool,
) -> jax.Array:
    """table[bucket of (t, s)] for each head."""
    relative_BTS = k_BS[:, None, :] - q_BT[:, :, None]
    bucket_BTS = t5_bucket(relative_BTS, table_XN.shape[0], max_distance, bidirectional)
    return jnp.moveaxis(jnp.asarray(table_XN, jnp.float32)[bucket_BTS], -1, 1)


def t5_bucket(
    relative: jax.Array, buckets: int, max_distance: int, bidirectional: bool
) -> jax.Array:
    """The bucket of key position - query position (Raffel et al. 2020; T5's code).

    Half of a side's buckets are exact distances, the others logarithmic up to
    `max_distance`; a bidirectional stack gives the second half to keys ahead.
    """
    base = jnp.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        base = jnp.where(relative > 0, buckets, 0)
        distance = jnp.abs(relative)
    else:
        distance = jnp.maximum(-relative, 0)
    exact = buckets // 2
    ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
    steps = jnp.log(ratio) / math.log(max_distance / exact) * (buckets - exact)
    far = jnp.minimum(exact + steps.astype(jnp.int32), buckets - 1)
    return base + jnp.where(distance < exact, distance, far)
