"""The module of multi-, grouped- and single-head attention: weights, norms, cache."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    BlockSparse,
    Cosine,
    LayerSpec,
    LayoutConfig,
    ModelConfig,
    ScaledDot,
    SlidingWindow,
)
from llmjax.models.activations import record
from llmjax.models.attention.implementations import (
    attend,
    attention_map,
    einsum_attention,
)
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import ScoreModifiers
from llmjax.models.cache import KeyValues
from llmjax.models.context import Context
from llmjax.models.layers import (
    Norm,
    Projection,
    compute_dtype,
    residual_std,
    score_scale,
)
from llmjax.models.positions.registry import scheme
from llmjax.models.positions.scheme import Bias, Scheme, Scores
from llmjax.models.remat import named

Cached = tuple[KeyValues, jax.Array, Any]  # the cache, the layer, the slot


class Attention(nn.Module):
    """Attention of a stack to itself, or with `cross` to an encoder.

    Attributes:
      spec: the layer's pattern and positions.
      cross: attend to `context.encoded_BSD`; no positions, no window.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    spec: LayerSpec
    cross: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, cached: Cached | None = None
    ) -> tuple[jax.Array, KeyValues | None]:
        """Returns [B, T, D] and the cache.

        With a cache, self-attention writes its keys at `slot` and sees all slots;
        cross-attention writes the encoder's once, and reads them where the context has
        no `encoded_BSD`.
        """
        cfg = self.cfg
        positions = Scheme(cfg, None) if self.cross else scheme(cfg, self.spec)
        query = self._projection("query", cfg.num_heads, "N")
        key = self._projection("key", cfg.K, "K")
        value = self._projection("value", cfg.K, "K")
        q_BTNH = on_mesh(query(x_BTD), "N")
        q_BTNH = self._scaled(self._norm("query_norm", "N", q_BTNH))
        mask, key_values = context.mask, None
        source_BSD: Any = x_BTD
        if self.cross:
            assert context.cross_mask is not None
            mask, source_BSD = context.cross_mask, context.encoded_BSD
        elif context.streams > 1:
            source_BSD = x_BTD[:, : x_BTD.shape[1] // context.streams]
        if self.cross and source_BSD is None:
            assert cached is not None
            key_values, layer, _ = cached
            k_BSKH, v_BSKH = key_values.read(layer)
        else:
            k_BSKH, v_BSKH = (
                on_mesh(key(source_BSD), "K"),
                on_mesh(value(source_BSD), "K"),
            )
            k_BSKH = self._norm("key_norm", "K", k_BSKH)
            if isinstance(cfg.scores, Cosine):
                k_BSKH = unit(k_BSKH)
            at = context.positions_BT, context.lengths_BT
            q_BTNH = positions.rotate(q_BTNH, *at)
            k_BSKH = positions.rotate(k_BSKH, *at)
            if cached is not None:
                key_values, layer, slot = cached
                key_values, k_BSKH, v_BSKH, mask = key_values.extend(
                    layer, slot, k_BSKH, v_BSKH, mask
                )
        mask = layer_mask(mask, self.spec, self.cross)
        scores = Scores(
            self,
            query,
            key,
            q_BTNH,
            k_BSKH,
            context.shared_positions,
            context.mask.causal,
            context.token_types_BT,
            context.streams,
        )
        q_BTNH, bias = positions.scores(scores)
        modifiers = self._modifiers(bias, positions.reads_content)
        if cached is None:
            operands = q_BTNH, k_BSKH, mask, modifiers
            record(self, "attentions", lambda: attention_map(*operands))
            o_BTNH = attend(self.layout, q_BTNH, k_BSKH, v_BSKH, mask, modifiers)
        else:  # few queries against many keys: nothing to cut
            o_BTNH = einsum_attention(q_BTNH, k_BSKH, v_BSKH, mask, modifiers)
        out = output_projection(cfg, self.layout, cfg.H)
        return named(out(o_BTNH), "out"), key_values

    def _projection(self, name: str, count: int, axis: str) -> Projection:
        cfg = self.cfg
        return Projection(
            f"BTD,D{axis}H->BT{axis}H",
            (cfg.d_model, count, cfg.H),
            ("D", axis, "H"),
            cfg.init_std,
            2 * int(cfg.biases in ("all", "qkv", "attention")),
            compute_dtype(self.layout),
            self.layout.quantization,
            name=name,
        )

    def _norm(self, name: str, axis: str, x_BTNH: jax.Array) -> jax.Array:
        if self.cfg.qk_norm == "none":
            return x_BTNH
        axes = ("H",) if self.cfg.qk_norm == "head" else (axis, "H")
        return Norm(self.cfg.norm, axes, name=name)(x_BTNH)

    def _scaled(self, q_BTNH: jax.Array) -> jax.Array:
        """Queries that hold the scale of the scores, which then are q.k."""
        scores = self.cfg.scores
        if isinstance(scores, Cosine):
            log_scale = nn.initializers.constant(jnp.log(scores.init_scale))
            scale_N = jnp.exp(self._vector("log_scale", log_scale))
            return unit(q_BTNH) * scale_N[:, None].astype(q_BTNH.dtype)
        if isinstance(scores, ScaledDot):
            return q_BTNH * score_scale(self.cfg, self.cfg.H)
        return q_BTNH

    def _vector(self, name: str, init: Any) -> Any:
        """One number for each head."""
        boxed = nn.with_logical_partitioning(init, ("N",))
        return self.param(name, boxed, (self.cfg.num_heads,))

    def _modifiers(self, bias: Bias | None, reads_content: bool) -> ScoreModifiers:
        cfg, sinks_N, dropout = self.cfg, None, None
        if cfg.sinks and not self.cross:
            sinks_N = self._vector("sinks", nn.initializers.zeros)
        if cfg.attention_dropout and self.has_rng("dropout"):
            dropout = nn.Dropout(cfg.attention_dropout, deterministic=False)
        return ScoreModifiers(bias, reads_content, cfg.softcap, sinks_N, dropout)


def layer_mask(mask: Mask, spec: LayerSpec, cross: bool = False) -> Mask:
    """The mask of a layer: the stack's, within the layer's pattern."""
    if isinstance(spec.pattern, SlidingWindow) and not cross:
        return mask.with_(window=spec.pattern.window)
    if isinstance(spec.pattern, BlockSparse) and not cross:
        return mask.with_(blocks=spec.pattern)
    return mask


def output_projection(cfg: ModelConfig, layout: LayoutConfig, size: int) -> Projection:
    """The projection of all heads, of `size` each, back to D."""
    return Projection(
        "BTNH,NHD->BTD",
        (cfg.num_heads, size, cfg.d_model),
        ("N", "H", "D"),
        residual_std(cfg),
        int(cfg.biases in ("all", "attention")),
        compute_dtype(layout),
        layout.quantization,
        name="out",
    )


def on_mesh(x_BTNH: jax.Array, axis: str) -> jax.Array:
    """Queries, keys or values laid out over the mesh."""
    return nn.with_logical_constraint(
        x_BTNH, ("act_B", "act_T", f"act_{axis}", "act_H")
    )


def unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis, in float32, safe at 0."""
    x32 = x.astype(jnp.float32)
    square = jnp.sum(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(square + 1e-12)).astype(x.dtype)
