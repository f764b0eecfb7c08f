"""Softmax attention a tile of keys at a time, forward and backward (FlashAttention).

A row's running maximum and sum stand for its softmax (Milakov & Gimelshein 2018), so
that tiles may come in any order; backward, probabilities are computed again from the
logarithm of the sum (Dao et al. 2022, arXiv:2205.14135). Statistics are float32.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.models.attention.mask import Mask

LOWEST = -1e30  # below any score; finite, so that differences of two are 0


class Queries(NamedTuple):
    """Some queries and what masks them; positions may be of one row for all."""

    q_BTKGH: Any
    positions_BT: Any
    segments_BT: Any = None


class Keys(NamedTuple):
    """Some keys and values and what masks them."""

    k_BSKH: Any
    v_BSKW: Any
    positions_BS: Any
    segments_BS: Any = None
    prefix_BS: Any = None


class Softmax(NamedTuple):
    """Over the keys so far: maximum, sum of exponentials, weighted sum of values."""

    m_BKGT: jax.Array
    l_BKGT: jax.Array
    o_BKGTW: jax.Array


class Backward(NamedTuple):
    """Statistics of queries for the backward pass; see `attend_back`."""

    lse_BKGT: jax.Array
    delta_BKGT: jax.Array
    do_BTKGW: jax.Array


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Scores from q.k, the same for all tiles.

    Attributes:
      mask: its rules; without arrays, which come with queries and keys.
      softcap: as in `ScoreModifiers`.
      bias: (constants, q_positions_BT, k_positions_BS) -> [B or 1, K, G, T, S].
      tile: keys at a time; the largest divisor of their number up to it is taken.
    """

    mask: Mask
    softcap: float | None
    bias: Callable[..., jax.Array] | None
    tile: int

    def visible(self, queries: Queries, keys: Keys) -> jax.Array | None:
        """Bool [B or 1, 1, 1, T, S]; None when all is visible."""
        mask = self.mask.with_(
            q_positions_BT=queries.positions_BT,
            k_positions_BS=keys.positions_BS,
            q_segments_BT=queries.segments_BT,
            k_segments_BS=keys.segments_BS,
            k_prefix_BS=keys.prefix_BS,
        )
        visible = mask.dense(queries.q_BTKGH.shape[1], keys.k_BSKH.shape[1])
        return None if visible is None else visible[:, None, None]

    def modified(
        self, constants: Any, s_BKGTS: jax.Array, queries: Queries, keys: Keys
    ) -> jax.Array:
        """q.k with its bias, capped."""
        if self.bias is not None:
            positions = queries.positions_BT, keys.positions_BS
            s_BKGTS = s_BKGTS + self.bias(constants, *positions)
        if self.softcap is not None:
            s_BKGTS = self.softcap * jnp.tanh(s_BKGTS / self.softcap)
        return s_BKGTS

    def cut(self, keys: Keys) -> Keys:
        """The keys with a leading axis of tiles."""
        S = keys.k_BSKH.shape[1]
        size = max(d for d in range(1, min(self.tile, S) + 1) if S % d == 0)

        def tiles(x):
            return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

        return jax.tree.map(tiles, keys)


def start(queries: Queries, size: int) -> Softmax:
    """The statistics of no keys, for values of this size."""
    B, T, K, G, _ = queries.q_BTKGH.shape
    zeros = jnp.zeros((B, K, G, T), jnp.float32)
    return Softmax(zeros + LOWEST, zeros, jnp.zeros((B, K, G, T, size), jnp.float32))


def attend(
    scoring: Scoring, constants: Any, queries: Queries, keys: Keys, so_far: Softmax
) -> Softmax:
    """The statistics with these keys too."""

    def one(so_far: Softmax, keys: Keys):
        s_BKGTS = _dot(queries, keys)
        s_BKGTS = scoring.modified(constants, s_BKGTS, queries, keys)
        visible = scoring.visible(queries, keys)
        if visible is not None:
            s_BKGTS = jnp.where(visible, s_BKGTS, LOWEST)
        m_BKGT = jnp.maximum(so_far.m_BKGT, jnp.max(s_BKGTS, axis=-1))
        p_BKGTS = jnp.exp(s_BKGTS - m_BKGT[..., None])
        if visible is not None:  # a row that has seen nothing yet
            p_BKGTS = jnp.where(visible, p_BKGTS, 0)
        old_BKGT = jnp.exp(so_far.m_BKGT - m_BKGT)
        l_BKGT = so_far.l_BKGT * old_BKGT + jnp.sum(p_BKGTS, axis=-1)
        o_BKGTW = jnp.einsum(
            "BKGTS,BSKW->BKGTW",
            p_BKGTS.astype(keys.v_BSKW.dtype),
            keys.v_BSKW,
            preferred_element_type=jnp.float32,
        )
        o_BKGTW = so_far.o_BKGTW * old_BKGT[..., None] + o_BKGTW
        return Softmax(m_BKGT, l_BKGT, o_BKGTW), None

    return jax.lax.scan(one, so_far, scoring.cut(keys))[0]


def finish(so_far: Softmax, sinks_KG: Any = None) -> tuple[jax.Array, jax.Array]:
    """Attention's result [B, T, K, G, W], float32, and log(sum(exp(scores))).

    A sink is one more score that gives no value; rows without keys give 0.
    """
    m_BKGT, l_BKGT, o_BKGTW = so_far
    if sinks_KG is not None:
        sinks = sinks_KG.astype(jnp.float32)[:, :, None]
        top_BKGT = jnp.maximum(m_BKGT, sinks)
        old_BKGT = jnp.exp(m_BKGT - top_BKGT)
        l_BKGT = l_BKGT * old_BKGT + jnp.exp(sinks - top_BKGT)
        m_BKGT, o_BKGTW = top_BKGT, o_BKGTW * old_BKGT[..., None]
    l_BKGT = jnp.where(l_BKGT == 0, 1, l_BKGT)
    o_BTKGW = jnp.moveaxis(o_BKGTW / l_BKGT[..., None], 3, 1)
    return o_BTKGW, m_BKGT + jnp.log(l_BKGT)


def attend_back(
    scoring: Scoring, constants: Any, queries: Queries, keys: Keys, statistics: Backward
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Contributions of these keys to d(q), d(k), d(v) and d(constants), in float32.

    Args:
      scoring, constants, queries, keys: as forward.
      statistics: log(sum(exp(scores))) over all keys, sum(d(o) o) of each query, and
        d(o).
    """

    def one(carry, keys: Keys):
        dq_BTKGH, dconstants = carry
        s_BKGTS, pull = jax.vjp(
            lambda constants, s: scoring.modified(constants, s, queries, keys),
            constants,
            _dot(queries, keys),
        )
        p_BKGTS = jnp.exp(s_BKGTS - statistics.lse_BKGT[..., None])
        visible = scoring.visible(queries, keys)
        if visible is not None:
            p_BKGTS = jnp.where(visible, p_BKGTS, 0)
        dtype = keys.v_BSKW.dtype
        do_BTKGW = statistics.do_BTKGW
        dv_BSKW = _einsum("BKGTS,BTKGW->BSKW", p_BKGTS.astype(dtype), do_BTKGW)
        dp_BKGTS = _einsum("BTKGW,BSKW->BKGTS", do_BTKGW, keys.v_BSKW)
        ds_BKGTS = p_BKGTS * (dp_BKGTS - statistics.delta_BKGT[..., None])
        more, ds_BKGTS = pull(ds_BKGTS)
        ds_BKGTS = ds_BKGTS.astype(queries.q_BTKGH.dtype)
        dq_BTKGH += _einsum("BKGTS,BSKH->BTKGH", ds_BKGTS, keys.k_BSKH)
        dk_BSKH = _einsum("BKGTS,BTKGH->BSKH", ds_BKGTS, queries.q_BTKGH)
        dconstants = jax.tree.map(jnp.add, dconstants, more)
        return (dq_BTKGH, dconstants), (dk_BSKH, dv_BSKW)

    none = jnp.zeros(queries.q_BTKGH.shape, jnp.float32)
    carry = none, jax.tree.map(jnp.zeros_like, constants)
    (dq_BTKGH, dconstants), tiles = jax.lax.scan(one, carry, scoring.cut(keys))
    dk_BSKH, dv_BSKW = (
        jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]) for x in tiles
    )
    return dq_BTKGH, dk_BSKH, dv_BSKW, dconstants


def _dot(queries: Queries, keys: Keys) -> jax.Array:
    return _einsum("BTKGH,BSKH->BKGTS", queries.q_BTKGH, keys.k_BSKH)


def _einsum(equation: str, *operands: jax.Array) -> jax.Array:
    return jnp.einsum(equation, *operands, preferred_element_type=jnp.float32)
