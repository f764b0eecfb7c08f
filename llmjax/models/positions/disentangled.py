"""DeBERTa's positions: contents against relative positions, both ways."""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.layers import Norm, table
from llmjax.models.positions.scheme import Bias, Scheme, Scores, gather_last


class DisentangledScheme(Scheme):
    """He et al. 2020, arXiv:2006.03654; one table of relative positions for all layers.

    A layer projects it by the weights of its own queries and keys.
    """

    reads_content: ClassVar[bool] = True

    def shared(self, owner: nn.Module) -> Any:
        """[2 * span, D], normed."""
        cfg = self.cfg
        shape, axes = (2 * self.config.span, cfg.d_model), (None, "D")
        table_XD = table(owner, "table", "BTSX,XD->BTSD", shape, axes, cfg.init_std)
        return Norm(cfg.norm, name="norm")(table_XD)

    def scores(self, scores: Scores) -> tuple[jax.Array, Bias | None]:
        q_BTNH, dtype = scores.q_BTNH, scores.q_BTNH.dtype
        table_BXD = scores.shared[None].astype(dtype)
        return q_BTNH, functools.partial(
            disentangled,
            q_BTNH=q_BTNH,
            k_BSNH=scores.k_BSKH,
            position_q_XNH=self.scaled(scores.query(table_BXD)[0], dtype),
            position_k_XNH=scores.key(table_BXD)[0],
            span=self.config.span,
            max_distance=self.config.max_distance,
        )


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
