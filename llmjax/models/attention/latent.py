"""Latent attention: keys and values from one small vector a token (DeepSeek-V2/V3)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import Latent, LayerSpec, LayoutConfig, ModelConfig
from llmjax.models.activations import record
from llmjax.models.attention.implementations import (
    attend,
    attention_map,
    einsum_attention,
)
from llmjax.models.attention.multihead import (
    Cached,
    layer_mask,
    on_mesh,
    output_projection,
)
from llmjax.models.cache import KeyValues
from llmjax.models.context import Context
from llmjax.models.layers import Norm, Projection, compute_dtype, score_scale
from llmjax.models.positions.registry import scheme
from llmjax.models.positions.scheme import Scheme
from llmjax.models.remat import named


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, 2.1).

    The cache holds the normed latent and the rotated key part of each token; then the
    up-projections move to the queries and outputs ("absorbed"), so that nothing of the
    size of all keys exists.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    spec: LayerSpec

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, cached: Cached | None = None
    ) -> tuple[jax.Array, KeyValues | None]:
        """Returns [B, T, D] and the cache, as `Attention` does."""
        cfg, heads = self.cfg, self.cfg.heads
        assert isinstance(heads, Latent)
        H, R = cfg.H, heads.rank
        positions = scheme(cfg, self.spec)
        q_BTNH = self._queries(x_BTD, positions, context)
        down_BTR = self._project(
            "latent_down",
            "BTD,DR->BTR",
            (cfg.d_model, R + heads.rotary_dim),
            ("D", "R"),
        )(x_BTD)
        c_BTR = self._norm("latent_norm")(down_BTR[..., :R])
        k_rope_BT1H = positions.rotate(
            down_BTR[:, :, None, R:], context.positions_BT, context.lengths_BT
        )
        up = self._project(
            "key_value",
            "BSR,RNH->BSNH",
            (R, cfg.num_heads, H + heads.value_dim),
            ("R", "N", "H"),
        )
        mask = layer_mask(context.mask, self.spec)
        if cached is None:
            kv_BSNH = on_mesh(up(c_BTR), "N")
            k_BSNH, v_BSNH = kv_BSNH[..., :H], kv_BSNH[..., H:]
            rope = jnp.broadcast_to(k_rope_BT1H, (*k_BSNH.shape[:-1], heads.rotary_dim))
            k_BSNH = jnp.concatenate([k_BSNH, rope], axis=-1)
            operands = q_BTNH, k_BSNH, mask
            record(self, "attentions", lambda: attention_map(*operands))
            o_BTNH = attend(self.layout, q_BTNH, k_BSNH, v_BSNH, mask)
            return self._out(o_BTNH), None
        key_values, layer, slot = cached
        entry_BT1R = jnp.concatenate([c_BTR[:, :, None], k_rope_BT1H], axis=-1)
        key_values, k_BS1R, _, mask = key_values.extend(
            layer, slot, entry_BT1R, None, mask
        )
        kernel_RNH = up()
        q_BTNR = jnp.einsum("BTNH,RNH->BTNR", q_BTNH[..., :H], kernel_RNH[..., :H])
        q_BTNR = jnp.concatenate([q_BTNR, q_BTNH[..., H:]], axis=-1)
        # cutting the output copies less than cutting the cache
        o_BTNR = einsum_attention(q_BTNR, k_BS1R, k_BS1R, mask)[..., :R]
        o_BTNH = jnp.einsum("BTNR,RNH->BTNH", o_BTNR, kernel_RNH[..., H:])
        return self._out(o_BTNH), key_values

    def _queries(
        self, x_BTD: jax.Array, positions: Scheme, context: Context
    ) -> jax.Array:
        """[B, T, N, H + rotary_dim], scaled, the last part turned."""
        cfg, heads = self.cfg, self.cfg.heads
        assert isinstance(heads, Latent)
        size = cfg.H + heads.rotary_dim
        if heads.query_rank is not None:
            rank = heads.query_rank
            down = self._project(
                "query_down", "BTD,DR->BTR", (cfg.d_model, rank), ("D", "R")
            )
            x_BTD = self._norm("query_norm")(down(x_BTD))
        first = "R" if heads.query_rank is not None else "D"
        shape = (x_BTD.shape[-1], cfg.num_heads, size)
        up = self._project("query", "BTR,RNH->BTNH", shape, (first, "N", "H"))
        q_BTNH = on_mesh(up(x_BTD), "N") * score_scale(cfg, size)
        turned = positions.rotate(
            q_BTNH[..., cfg.H :], context.positions_BT, context.lengths_BT
        )
        return jnp.concatenate([q_BTNH[..., : cfg.H], turned], axis=-1)

    def _norm(self, name: str) -> Norm:
        heads, norm = self.cfg.heads, self.cfg.norm
        if isinstance(heads, Latent) and heads.norm_epsilon is not None:
            norm = dataclasses.replace(norm, epsilon=heads.norm_epsilon)
        return Norm(norm, ("R",), name=name)

    def _project(
        self, name: str, equation: str, shape: tuple[int, ...], axes: tuple[str, ...]
    ) -> Projection:
        dtype, how = compute_dtype(self.layout), self.layout.quantization
        std = self.cfg.init_std
        return Projection(equation, shape, axes, std, 0, dtype, how, name=name)

    def _out(self, o_BTNH: jax.Array) -> jax.Array:
        out = output_projection(self.cfg, self.layout, o_BTNH.shape[-1])
        return named(out(o_BTNH), "out")
