"""Attention: the maths as pure functions, and the module that owns its weights."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmjax.config import (
    BlockedAttention,
    Cosine,
    LayerSpec,
    LayoutConfig,
    ModelConfig,
    Rotary,
    ScaledDot,
    SlidingWindow,
)
from llmjax.models.cache import Layers
from llmjax.models.layers import Projection, compute_dtype, residual_std
from llmjax.models.mask import Mask
from llmjax.models.positions import rotary

HIDDEN = -1e30  # the score of a hidden key; finite, so that empty rows stay finite


def einsum_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask: Mask,
    dropout: nn.Dropout | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q.k) v with all scores at once; each key head serves N / K queries.

    The scale is already in q. Softmax in float32. Returns [B, T, N, H].
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    s_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    visible = mask.dense(T, S)
    if visible is not None:
        s_BKGTS = jnp.where(visible[:, None, None], s_BKGTS, HIDDEN)
    p_BKGTS = jax.nn.softmax(s_BKGTS, axis=-1).astype(v_BSKH.dtype)
    if dropout is not None:
        p_BKGTS = dropout(p_BKGTS)
    o_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", p_BKGTS, v_BSKH)
    return o_BTKGH.reshape(B, T, N, H)


def blocked_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask: Mask,
    block: int,
    dropout: nn.Dropout | None = None,
) -> Float[Array, "B T N H"]:
    """`einsum_attention` in blocks of queries, without the keys none of them sees.

    Time runs with the index, packed or padded, so no query of a causal block sees a
    key after the block, and none of a windowed one a key a window before it.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    if T != S or not mask.causal:
        return einsum_attention(q_BTNH, k_BSKH, v_BSKH, mask, dropout)
    if mask.q_positions_BT is None:
        index = jnp.arange(T)[None]
        mask = mask.replace(  # type: ignore[attr-defined]
            q_positions_BT=index, k_positions_BS=index
        )
    out = []
    for start in range(0, T, block):
        q = slice(start, min(start + block, T))
        first = 0 if mask.window is None else max(0, start - mask.window + 1)
        k = slice(first, q.stop)
        out.append(
            einsum_attention(
                q_BTNH[:, q], k_BSKH[:, k], v_BSKH[:, k], mask.block(q, k), dropout
            )
        )
    return jnp.concatenate(out, axis=1)


class Attention(nn.Module):
    """Multi-, grouped- or single-head attention, to itself or to an encoder.

    Attributes:
      spec: what this layer's pattern is.
      cross: attend to `source_BSD`; no rotary positions, no window.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    spec: LayerSpec
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array,
        mask: Mask,
        positions_BT: jax.Array,
        cached: tuple[Layers, jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, Layers | None]:
        """Returns [B, T, D] and the cache; `cached` is (keys and values, layer, slot).

        With a cache, self-attention writes its keys at `slot` and sees all slots.
        """
        cfg = self.cfg
        q_BTNH, k_BSKH, v_BSKH = self._project(x_BTD, source_BSD)
        if isinstance(cfg.positions, Rotary) and not self.cross:
            q_BTNH = rotary(q_BTNH, positions_BT, cfg.positions.theta)
            k_BSKH = rotary(k_BSKH, positions_BT, cfg.positions.theta)
        q_BTNH, k_BSKH = self._score(q_BTNH, k_BSKH)
        layers = None
        if cached is not None:
            layers, layer, slot = cached
            layers = layers.write(layer, slot, k_BSKH, v_BSKH)
            k_BSKH, v_BSKH = layers.read(layer)
        if isinstance(self.spec.pattern, SlidingWindow) and not self.cross:
            mask = mask.windowed(self.spec.pattern.window)
        dropout = None
        if cfg.attention_dropout and self.has_rng("dropout"):
            dropout = nn.Dropout(cfg.attention_dropout, deterministic=False)
        if isinstance(self.layout.attention, BlockedAttention) and cached is None:
            o_BTNH = blocked_attention(
                q_BTNH, k_BSKH, v_BSKH, mask, self.layout.attention.block, dropout
            )
        else:
            o_BTNH = einsum_attention(q_BTNH, k_BSKH, v_BSKH, mask, dropout)
        bias = int(cfg.biases == "all")
        shape, axes = (cfg.num_heads, cfg.H, cfg.d_model), ("N", "H", "D")
        out = Projection(
            "BTNH,NHD->BTD",
            shape,
            axes,
            residual_std(cfg),
            bias,
            compute_dtype(self.layout),
            name="out",
        )
        return out(o_BTNH), layers

    def _project(
        self, x_BTD: jax.Array, source_BSD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        cfg = self.cfg

        def heads(name, x, count, axis):
            projection = Projection(
                f"BTD,D{axis}H->BT{axis}H",
                (cfg.d_model, count, cfg.H),
                ("D", axis, "H"),
                cfg.init_std,
                2 * int(cfg.biases == "all"),
                compute_dtype(self.layout),
                name=name,
            )
            return nn.with_logical_constraint(
                projection(x), ("act_B", "act_T", f"act_{axis}", "act_H")
            )

        return (
            heads("query", x_BTD, cfg.num_heads, "N"),
            heads("key", source_BSD, cfg.K, "K"),
            heads("value", source_BSD, cfg.K, "K"),
        )

    def _score(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Folds the kind of score into q and k, so that attention is a plain q.k."""
        scores = self.cfg.scores
        if isinstance(scores, Cosine):
            init = nn.initializers.constant(jnp.log(scores.init_scale))
            boxed = nn.with_logical_partitioning(init, ("N",))
            log_scale_N: Any = self.param("log_scale", boxed, (self.cfg.num_heads,))
            return (
                unit(q) * jnp.exp(log_scale_N)[:, None].astype(q.dtype),
                unit(k),
            )
        if isinstance(scores, ScaledDot):
            return q * (self.cfg.H**-0.5), k
        return q, k


def unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis, in float32, safe at 0."""
    x32 = x.astype(jnp.float32)
    square = jnp.sum(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(square + 1e-12)).astype(x.dtype)
