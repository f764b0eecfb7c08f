"""Transformer-XL's positions: queries against sinusoids of distances."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.layers import Projection, table
from llmjax.models.positions.scheme import Bias, Scheme, Scores, gather_last
from llmjax.models.positions.sinusoidal import sinusoidal


class TransformerXLScheme(Scheme):
    """Dai et al. 2019, arXiv:1901.02860, 3.3; XLNet's, arXiv:1906.08237, 2.5.

    The four terms of a score are contents (a), contents against distance (b), and two
    trained biases of queries, towards contents (c) and towards distance (d).
    """

    reads_content: ClassVar[bool] = True

    def scores(self, scores: Scores) -> tuple[jax.Array, Bias | None]:
        by_distance = self._by_distance(scores)
        by_type_BNTS: Any = self._by_type(scores) if self.config.segments else 0.0

        def bias(q_BT: jax.Array, k_BS: jax.Array) -> jax.Array:
            return transformer_xl(q_BT, k_BS, *by_distance) + by_type_BNTS

        return self._plus_bias(scores, "content_bias"), bias

    def _by_distance(self, scores: Scores) -> tuple[jax.Array, jax.Array]:
        """Queries with their bias, and the keys of all distances."""
        cfg = self.cfg
        half = scores.k_BSKH.shape[1]
        distances_X = jnp.arange(half - 1, -half - 1, -1)
        sines_XD = sinusoidal(distances_X, cfg.d_model, 10_000.0, "halves")
        project = Projection(
            "XD,DNH->XNH",
            (cfg.d_model, cfg.num_heads, cfg.H),
            ("D", "N", "H"),
            cfg.init_std,
            dtype=scores.q_BTNH.dtype,
            quantization=scores.query.quantization,
            name="relative",
        )
        relative_XNH = project(sines_XD)
        return self._plus_bias(scores, "position_bias"), relative_XNH

    def _by_type(self, scores: Scores) -> Any:
        """[B, N, T, S]: whether a query's token and a key's are of one type."""
        cfg = self.cfg
        q_BTNH = self._plus_bias(scores, "segment_bias")
        shape, axes = (2, cfg.num_heads, cfg.H), (None, "N", "H")
        segments_2NH = table(
            scores.attention, "segments", "BTX,XNH->BTNH", shape, axes, cfg.init_std
        )
        k_types = scores.token_types_BT
        if k_types is None:
            return 0.0
        scores_BNTX = jnp.einsum("BTNH,XNH->BNTX", q_BTNH, segments_2NH)
        q_types = jnp.tile(k_types, (1, scores.streams))
        differ_BTS = (q_types[:, :, None] != k_types[:, None]).astype(jnp.int32)
        return gather_last(scores_BNTX, differ_BTS)

    def _plus_bias(self, scores: Scores, name: str) -> jax.Array:
        """The queries plus the trained vector `name` of each head."""
        shape = (self.cfg.num_heads, self.cfg.H)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("N", "H"))
        bias_NH: Any = scores.attention.param(name, zeros, shape)
        return scores.q_BTNH + self.scaled(bias_NH, scores.q_BTNH.dtype)


def transformer_xl(
    q_BT: jax.Array, k_BS: jax.Array, q_BTNH: jax.Array, relative_XNH: jax.Array
) -> jax.Array:
    """Queries against distances (Dai et al. 2019, terms b and d), unscaled.

    Args:
      q_BT, k_BS: positions, both below X / 2.
      q_BTNH: queries plus the position bias.
      relative_XNH: keys of the distances t - s from X / 2 - 1 down to -X / 2.
    """
    half = relative_XNH.shape[0] // 2
    scores_BNTX = jnp.einsum("BTNH,XNH->BNTX", q_BTNH, relative_XNH)
    index_BTS = (half - 1) - (q_BT[:, :, None] - k_BS[:, None, :])
    index_BTS = jnp.broadcast_to(
        jnp.clip(index_BTS, 0, 2 * half - 1), (q_BTNH.shape[0], *index_BTS.shape[1:])
    )
    return gather_last(scores_BNTX, index_BTS).astype(jnp.float32)
