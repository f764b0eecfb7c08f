"""What positions add to attention's scores, as terms [B or 1, N, T, S] in float32."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def alibi_slopes(N: int) -> np.ndarray:
    """Float32 [N]: 2^(-8/n), 2^(-16/n)… for a power of two n; the rest, if N is none,
    every other slope of the next power of two (Press et al. 2022, their code)."""
    power = 2 ** math.floor(math.log2(N))

    def series(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    extra = series(2 * power)[0::2][: N - power]
    return np.array(series(power) + extra, np.float32)


def alibi(q_BT: jax.Array, k_BS: jax.Array, N: int) -> jax.Array:
    """-slope * distance, symmetric where keys lie ahead."""
    distance_BTS = jnp.abs(q_BT[:, :, None] - k_BS[:, None, :]).astype(jnp.float32)
    return -jnp.asarray(alibi_slopes(N))[:, None, None] * distance_BTS[:, None]


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
    return jnp.moveaxis(table_XN.astype(jnp.float32)[bucket_BTS], -1, 1)


def log_bucket(relative: jax.Array, span: int, max_distance: int) -> jax.Array:
    """Signed distances, exact to span / 2, then logarithmic (DeBERTa-v3's buckets).

    He et al. 2021, arXiv:2111.09543, and their code.
    """
    middle = span // 2
    distance = jnp.abs(relative)
    inside = distance < middle
    clipped = jnp.where(inside, middle - 1, distance).astype(jnp.float32)
    scale = math.log((max_distance - 1) / middle)
    steps = jnp.ceil(jnp.log(clipped / middle) / scale * (middle - 1))
    far = (steps.astype(jnp.int32) + middle) * jnp.sign(relative)
    return jnp.where(inside, relative, far)


def gather_last(scores_BNTX: jax.Array, index_BTS: jax.Array) -> jax.Array:
    """scores[b, n, t, index[b, t, s]], [B, N, T, S]."""
    B, N = scores_BNTX.shape[:2]
    index_BNTS = jnp.broadcast_to(index_BTS[:, None], (B, N, *index_BTS.shape[1:]))
    return jnp.take_along_axis(scores_BNTX, index_BNTS, axis=-1)


def disentangled(
    q_BT: jax.Array,
    k_BS: jax.Array,
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    position_q_XNH: jax.Array,
    position_k_XNH: jax.Array,
    span: int,
    max_distance: int,
) -> jax.Array:
    """Content to position and position to content (He et al. 2020, eq. 4), unscaled.

    Args:
      q_BT, k_BS: positions.
      q_BTNH, k_BSNH: content queries and keys.
      position_q_XNH, position_k_XNH: those of the 2 * span relative positions.
      span, max_distance: as of `Disentangled`.
    """
    relative_BTS = q_BT[:, :, None] - k_BS[:, None, :]
    bucket_BTS = log_bucket(relative_BTS, span, max_distance)
    index_BTS = jnp.clip(bucket_BTS + span, 0, 2 * span - 1)
    B = q_BTNH.shape[0]
    index_BTS = jnp.broadcast_to(index_BTS, (B, *index_BTS.shape[1:]))
    c2p_BNTX = jnp.einsum("BTNH,XNH->BNTX", q_BTNH, position_k_XNH)
    p2c_BNSX = jnp.einsum("BSNH,XNH->BNSX", k_BSNH, position_q_XNH)
    c2p = gather_last(c2p_BNTX, index_BTS)
    p2c = gather_last(p2c_BNSX, jnp.swapaxes(index_BTS, 1, 2))
    return (c2p + jnp.swapaxes(p2c, 2, 3)).astype(jnp.float32)


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
