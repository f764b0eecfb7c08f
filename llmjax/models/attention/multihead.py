"""The module of multi-, grouped- and single-head attention: weights, norms, cache."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    Alibi,
    BlockSparse,
    Cosine,
    Disentangled,
    LayerSpec,
    LayoutConfig,
    ModelConfig,
    RelativeBias,
    Rotary,
    ScaledDot,
    SlidingWindow,
    TransformerXL,
)
from llmjax.models.attention.implementations import attend, einsum_attention
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.terms import Terms
from llmjax.models.cache import Layers
from llmjax.models.context import Context
from llmjax.models.layers import Norm, Projection, compute_dtype, residual_std, table
from llmjax.models.positions import relative
from llmjax.models.positions.rotary import rotary, sinusoidal
from llmjax.models.remat import named

Cached = tuple[Layers, jax.Array, jax.Array]  # keys and values, layer, slot


class Attention(nn.Module):
    """Attention of a stack to itself, or with `cross` to an encoder.

    Attributes:
      spec: what this layer's pattern and positions are.
      cross: attend to `context.encoded_BSD`; no positions, no window.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    spec: LayerSpec
    cross: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, cached: Cached | None = None
    ) -> tuple[jax.Array, Layers | None]:
        """Returns [B, T, D] and the cache.

        With a cache, self-attention writes its keys at `slot` and sees all slots;
        cross-attention writes the encoder's once, and reads them where none are given.
        """
        cfg = self.cfg
        query = self._projection("query", cfg.num_heads, "N")
        key = self._projection("key", cfg.K, "K")
        value = self._projection("value", cfg.K, "K")
        q_BTNH = self._score(self._norm("query_norm", "N", pinned(query(x_BTD), "N")))
        mask, layers = context.mask, None
        source_BSD: Any = x_BTD
        if self.cross:
            assert context.cross_mask is not None
            mask, source_BSD = context.cross_mask, context.encoded_BSD
        elif context.streams > 1:
            source_BSD = x_BTD[:, : x_BTD.shape[1] // context.streams]
        if self.cross and source_BSD is None:
            assert cached is not None
            layers, layer, _ = cached
            k_BSKH, v_BSKH = layers.read(layer)
        else:
            k_BSKH, v_BSKH = (
                pinned(key(source_BSD), "K"),
                pinned(value(source_BSD), "K"),
            )
            k_BSKH = self._unit(self._norm("key_norm", "K", k_BSKH))
            q_BTNH, k_BSKH = self._turn(q_BTNH, k_BSKH, context)
            if cached is not None:
                layers, layer, slot = cached
                layers, k_BSKH, v_BSKH, mask = layers.extend(
                    layer, slot, k_BSKH, v_BSKH, mask
                )
        mask = patterned(mask, self.spec, self.cross)
        terms = self._terms(query, key, q_BTNH, k_BSKH, context)
        q_BTNH = self._content(q_BTNH)
        if cached is None:
            o_BTNH = attend(self.layout, q_BTNH, k_BSKH, v_BSKH, mask, terms)
        else:  # few queries against many keys: nothing to cut
            o_BTNH = einsum_attention(q_BTNH, k_BSKH, v_BSKH, mask, terms)
        return named(output(cfg, self.layout, cfg.H)(o_BTNH), "out"), layers

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

    def _unit(self, k_BSKH: jax.Array) -> jax.Array:
        return unit(k_BSKH) if isinstance(self.cfg.scores, Cosine) else k_BSKH

    def _score(self, q_BTNH: jax.Array) -> jax.Array:
        """Folds the kind of score into q (and `_unit` into k): attention is q.k."""
        scores = self.cfg.scores
        if isinstance(scores, Cosine):
            log_scale_N = self._vector(
                "log_scale",
                nn.initializers.constant(jnp.log(scores.init_scale)),
                ("N",),
            )
            return unit(q_BTNH) * jnp.exp(log_scale_N)[:, None].astype(q_BTNH.dtype)
        if isinstance(scores, ScaledDot):
            return q_BTNH * score_scale(self.cfg, self.cfg.H)
        return q_BTNH

    def _turn(
        self, q_BTNH: jax.Array, k_BTKH: jax.Array, context: Context
    ) -> tuple[jax.Array, jax.Array]:
        config = layer_positions(self.cfg, self.spec)
        if self.cross or not isinstance(config, Rotary):
            return q_BTNH, k_BTKH
        size = self.cfg.rotary_dim(config)
        q_BTNH = rotary(q_BTNH, context.positions_BT, config, size)
        return q_BTNH, rotary(k_BTKH, context.positions_BT, config, size)

    def _vector(self, name: str, init: Any, axes: tuple[str, ...]) -> Any:
        sizes = {"N": self.cfg.num_heads, "H": self.cfg.H}
        boxed = nn.with_logical_partitioning(init, axes)
        return self.param(name, boxed, tuple(sizes[a] for a in axes))

    def _content(self, q_BTNH: jax.Array) -> jax.Array:
        """Queries with Transformer-XL's bias towards contents (term c)."""
        if self.cross or not isinstance(self.cfg.positions, TransformerXL):
            return q_BTNH
        bias_NH = self._vector("content_bias", nn.initializers.zeros, ("N", "H"))
        return q_BTNH + self._scaled(bias_NH, q_BTNH.dtype)

    def _scaled(self, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """What is added to a query that already holds the score's scale."""
        scaled = isinstance(self.cfg.scores, ScaledDot)
        factor = score_scale(self.cfg, self.cfg.H) if scaled else 1.0
        return (x * factor).astype(dtype)

    def _terms(
        self,
        query: Projection,
        key: Projection,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        context: Context,
    ) -> Terms:
        cfg, positions = self.cfg, self.cfg.positions
        bias: Any = None
        content = False
        if self.cross:
            pass
        elif isinstance(positions, Alibi):
            bias = functools.partial(relative.alibi, N=cfg.num_heads)
        elif isinstance(positions, RelativeBias):
            bias = functools.partial(
                relative.relative_bias,
                table_XN=context.relative,
                max_distance=positions.max_distance,
                bidirectional=not context.mask.causal,
            )
        elif isinstance(positions, Disentangled):
            content = True
            table_BXD = context.relative[None].astype(q_BTNH.dtype)
            bias = functools.partial(
                relative.disentangled,
                q_BTNH=q_BTNH,
                k_BSNH=k_BSKH,
                position_q_XNH=self._scaled(query(table_BXD)[0], q_BTNH.dtype),
                position_k_XNH=key(table_BXD)[0],
                span=positions.span,
                max_distance=positions.max_distance,
            )
        elif isinstance(positions, TransformerXL):
            content, bias = True, self._transformer_xl(q_BTNH, k_BSKH, context)
        sinks_N = None
        if cfg.sinks and not self.cross:
            sinks_N = self._vector("sinks", nn.initializers.zeros, ("N",))
        dropout = None
        if cfg.attention_dropout and self.has_rng("dropout"):
            dropout = nn.Dropout(cfg.attention_dropout, deterministic=False)
        return Terms(bias, content, cfg.softcap, sinks_N, dropout)

    def _transformer_xl(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, context: Context
    ) -> Any:
        """The closure of distances and, where asked for, of equal token types."""
        cfg, zeros = self.cfg, nn.initializers.zeros
        half, dtype = k_BSKH.shape[1], q_BTNH.dtype
        distances_X = jnp.arange(half - 1, -half - 1, -1)
        sines_XD = sinusoidal(distances_X, cfg.d_model, 10_000.0, "halves")
        project = Projection(
            "XD,DNH->XNH",
            (cfg.d_model, cfg.num_heads, cfg.H),
            ("D", "N", "H"),
            cfg.init_std,
            dtype=dtype,
            quantization=self.layout.quantization,
            name="relative",
        )
        relative_XNH = project(sines_XD)
        bias_NH = self._vector("position_bias", zeros, ("N", "H"))
        by_position = q_BTNH + self._scaled(bias_NH, dtype)
        assert isinstance(cfg.positions, TransformerXL)
        by_type_BNTS: Any = 0.0
        if cfg.positions.segments:
            bias_NH = self._vector("segment_bias", zeros, ("N", "H"))
            shape, axes = (2, cfg.num_heads, cfg.H), (None, "N", "H")
            segments_2NH = table(
                self, "segments", "BTX,XNH->BTNH", shape, axes, cfg.init_std
            )
            if context.token_types_BT is not None:
                by_type = q_BTNH + self._scaled(bias_NH, dtype)
                scores = jnp.einsum("BTNH,XNH->BNTX", by_type, segments_2NH)
                k_types = context.token_types_BT
                q_types = jnp.tile(k_types, (1, context.streams))
                differ_BTS = (q_types[:, :, None] != k_types[:, None]).astype(jnp.int32)
                by_type_BNTS = relative.gather_last(scores, differ_BTS)

        def bias(q, k):
            by_distance = relative.transformer_xl(q, k, by_position, relative_XNH)
            return by_distance + by_type_BNTS

        return bias


def layer_positions(cfg: ModelConfig, spec: LayerSpec) -> Any:
    """The positions that a layer's attention knows of."""
    return cfg.positions if spec.positions is None else spec.positions


def patterned(mask: Mask, spec: LayerSpec, cross: bool = False) -> Mask:
    """The mask within a layer's pattern."""
    if isinstance(spec.pattern, SlidingWindow) and not cross:
        return mask.with_(window=spec.pattern.window)
    if isinstance(spec.pattern, BlockSparse) and not cross:
        return mask.with_(blocks=spec.pattern)
    return mask


def score_scale(cfg: ModelConfig, size: int) -> float:
    """The factor of q.k for heads of `size`; 1 where scores are not scaled."""
    if not isinstance(cfg.scores, ScaledDot):
        return 1.0
    return size**-0.5 if cfg.scores.scale is None else cfg.scores.scale


def output(cfg: ModelConfig, layout: LayoutConfig, size: int) -> Projection:
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


def pinned(x_BTNH: jax.Array, axis: str) -> jax.Array:
    """Queries, keys or values laid out over the mesh."""
    return nn.with_logical_constraint(
        x_BTNH, ("act_B", "act_T", f"act_{axis}", "act_H")
    )


def unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis, in float32, safe at 0."""
    x32 = x.astype(jnp.float32)
    square = jnp.sum(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(square + 1e-12)).astype(x.dtype)
