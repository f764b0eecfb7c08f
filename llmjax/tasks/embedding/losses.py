"""Losses over the vectors of a batch, pure functions of them.

A row b of a batch has an anchor and C documents: the positive, then negatives. All
documents of a batch are numbered b * C + c; N = B * C.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import GuidedNegatives, Ranking

NEVER = -1e9  # a logit whose exponential is 0, beside any cosine over a temperature


@flax.struct.dataclass
class Vectors:
    """The vectors of a batch's texts.

    Attributes:
      anchor_BD, docs_BCD: float32.
    """

    anchor_BD: jax.Array
    docs_BCD: jax.Array

    def truncated(self, size: int) -> "Vectors":
        """The beginnings of the vectors, of length 1."""
        return Vectors(unit(self.anchor_BD[:, :size]), unit(self.docs_BCD[..., :size]))


@flax.struct.dataclass
class Texts:
    """What is known of the texts of a batch.

    Attributes:
      valid_B: bool, False for rows that only fill up.
      there_BC: bool, the documents that are there.
      anchor_id_B2, doc_id_BC2: equal for equal texts.
    """

    valid_B: jax.Array
    there_BC: jax.Array
    anchor_id_B2: jax.Array
    doc_id_BC2: jax.Array


def unit(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis; 0 of 0, and a gradient there too."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def identity(tokens_BT: jax.Array, there_BT: jax.Array) -> jax.Array:
    """Two numbers, uint32 [B, 2], that are equal for equal texts and for no others,
    but with a probability of 2^-64 or so."""
    rng = np.random.default_rng(0)
    factors = rng.integers(1, 2**31, (tokens_BT.shape[1], 2), np.uint32) * 2 + 1
    x_BT = (tokens_BT.astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
    x_BT = (x_BT ^ (x_BT >> 16)) * jnp.uint32(0x85EBCA6B)
    x_BT = jnp.where(there_BT, x_BT ^ (x_BT >> 13), 0)
    return jnp.sum(x_BT[..., None] * jnp.asarray(factors), axis=1, dtype=jnp.uint32)


# --- ranking -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Similarities of each row's anchor or positive to a kind of texts, [B, M]."""

    cosine_BM: jax.Array
    counts_BM: jax.Array  # bool, those that are in the denominator


def ranking(
    config: Ranking, vectors: Vectors, texts: Texts, guide: Vectors | None = None
) -> tuple[jax.Array, jax.Array]:
    """The negative log-likelihood of each row's positive, and whether it is nearest.

    Copies of the positive, documents that are the positive of an equal anchor, and
    equal anchors are no negatives. (sentence-transformers leaves that to a sampler that
    keeps them out of a batch.)

    Args:
      config: of the loss.
      vectors: of any length; their cosines count.
      texts: of the same batch.
      guide: another model's vectors; None: no text is filtered out.

    Returns:
      Float32 [B] and bool [B]; what they are of rows that only fill up does not count.
    """
    pools = _pools(config, vectors, texts)
    if guide is not None:
        assert isinstance(config.negatives, GuidedNegatives)
        pools = _filtered(config.negatives, pools, _pools(config, guide, texts))
    B, C = texts.there_BC.shape
    own_B1 = (jnp.arange(B) * C)[:, None]
    first = pools[0].cosine_BM / config.temperature
    positive_B = jnp.take_along_axis(first, own_B1, axis=1)[:, 0]
    logits = [
        jnp.where(pool.counts_BM, pool.cosine_BM / config.temperature, NEVER)
        for pool in pools
    ]
    if config.partition == "joint":
        log_z_B = jax.nn.logsumexp(jnp.concatenate(logits, axis=1), axis=1)
    else:
        each = [jax.nn.logsumexp(x, axis=1) for x in logits]
        log_z_B = sum(each[1:], each[0]) / len(each)
    right_B = jnp.argmax(logits[0], axis=1) == own_B1[:, 0]
    return log_z_B - positive_B, right_B


def _pools(config: Ranking, vectors: Vectors, texts: Texts) -> list[_Pool]:
    """The similarities of each direction, the anchors' to documents first."""
    B, C = texts.there_BC.shape
    anchor_BD, docs_BCD = unit(vectors.anchor_BD), unit(vectors.docs_BCD)
    docs_ND, positive_BD = docs_BCD.reshape(B * C, -1), docs_BCD[:, 0]
    there_N = (texts.there_BC & texts.valid_B[:, None]).reshape(-1)
    ids = texts.anchor_id_B2, texts.doc_id_BC2[:, 0], texts.doc_id_BC2.reshape(-1, 2)
    same_anchor_BB = _equal(ids[0], ids[0])
    row_N, first_N = jnp.arange(B * C) // C, jnp.arange(B * C) % C == 0
    own_BB = jnp.eye(B, dtype=bool)
    own_row_BN = jnp.arange(B)[:, None] == row_N
    # copies of the positive, and positives of the same anchor
    match_BN = _equal(ids[1], ids[2]) | (same_anchor_BB[:, row_N] & first_N)
    match_BB = _equal(ids[1], ids[1]) | same_anchor_BB
    valid_1B = texts.valid_B[None]
    made = {
        "query_to_doc": lambda: _Pool(
            anchor_BD @ docs_ND.T, there_N & (~match_BN | own_row_BN & first_N)
        ),
        "doc_to_query": lambda: _Pool(
            positive_BD @ anchor_BD.T, valid_1B & (~match_BB | own_BB)
        ),
        "query_to_query": lambda: _Pool(anchor_BD @ anchor_BD.T, valid_1B & ~match_BB),
        "doc_to_doc": lambda: _Pool(
            positive_BD @ docs_ND.T, there_N & ~match_BN & ~own_row_BN
        ),
    }
    return [made[d]() for d in dict.fromkeys(("query_to_doc", *config.directions))]


def _equal(a_B2: jax.Array, b_M2: jax.Array) -> jax.Array:
    """Bool [B, M], which texts are equal."""
    return jnp.all(a_B2[:, None] == b_M2[None], axis=-1)


def _filtered(
    config: GuidedNegatives, pools: list[_Pool], guide: list[_Pool]
) -> list[_Pool]:
    """Pools without the texts that a guide finds too near to the anchor's side."""
    first = guide[0].cosine_BM
    B, N = first.shape
    own_B = jnp.arange(B) * (N // B)
    positive_B1 = jnp.take_along_axis(first, own_B[:, None], axis=1)
    limit_B1 = (
        positive_B1 - config.margin
        if config.scale == "absolute"
        else positive_B1 * (1 - config.margin)
    )
    kept = []
    for k, (pool, other) in enumerate(zip(pools, guide, strict=True)):
        near_BM = other.cosine_BM > limit_B1
        M = near_BM.shape[1]
        if k == 0 or M == B:  # the positive itself, which a pool of others has not
            own = jnp.arange(M) == (jnp.arange(B) * (M // B))[:, None]
            near_BM &= ~own
        kept.append(dataclasses.replace(pool, counts_BM=pool.counts_BM & ~near_BM))
    return kept


# --- scores --------------------------------------------------------------------------


def cosines(vectors: Vectors) -> jax.Array:
    """The cosine of each row's anchor and first document, float32 [B]."""
    a_BD, b_BD = unit(vectors.anchor_BD), unit(vectors.docs_BCD[:, 0])
    return jnp.sum(a_BD * b_BD, axis=-1)


def cosent(
    cosine_B: jax.Array, score_B: jax.Array, valid_B: jax.Array, temperature: float
) -> jax.Array:
    """log(1 + sum of exp((cos_i - cos_j) / t) over i, j with score_i < score_j)."""
    logit_B = cosine_B / temperature
    lower_BB = score_B[:, None] < score_B[None]
    counts_BB = lower_BB & valid_B[:, None] & valid_B[None]
    apart = jnp.where(counts_BB, logit_B[:, None] - logit_B[None], NEVER)
    return jax.nn.logsumexp(jnp.append(apart.reshape(-1), 0.0))
