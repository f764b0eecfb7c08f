"""The one Transformer: a block, a stack of scanned groups, and the whole."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    Group,
    LayerSpec,
    LayoutConfig,
    Learned,
    ModelConfig,
    Sinusoidal,
)
from llmjax.models.attention import Attention
from llmjax.models.cache import Cache, Layers
from llmjax.models.layers import FeedForward, Norm, compute_dtype
from llmjax.models.mask import Mask
from llmjax.models.positions import sinusoidal

Batch = Mapping[str, Any]

REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """Attention and feed-forward, each normed, dropped out and added to its input."""

    cfg: ModelConfig
    layout: LayoutConfig
    spec: LayerSpec
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask,
        positions_BT: jax.Array,
        encoded: tuple[jax.Array, Mask] | None = None,
        cached: tuple[Layers, jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, Layers | None]:
        cfg = self.cfg
        layers = None

        def attend(h_BTD):
            nonlocal layers
            attention = Attention(cfg, self.layout, self.spec, name="attention")
            h_BTD, layers = attention(h_BTD, h_BTD, mask, positions_BT, cached)
            return h_BTD

        def attend_encoder(h_BTD):
            assert encoded is not None
            source_BSD, cross_mask = encoded
            attention = Attention(
                cfg, self.layout, self.spec, cross=True, name="cross_attention"
            )
            return attention(h_BTD, source_BSD, cross_mask, positions_BT)[0]

        x_BTD = self._residual("attention", attend, x_BTD)
        if self.cross:
            x_BTD = self._residual("cross_attention", attend_encoder, x_BTD)
        mlp = FeedForward(cfg, self.layout, name="mlp")
        return self._residual("mlp", mlp, x_BTD), layers

    def _residual(self, name: str, f: Any, x_BTD: jax.Array) -> jax.Array:
        """x + f(norm(x)) before, norm(x + f(x)) after, x + norm(f(norm(x))) both."""
        cfg = self.cfg
        where = cfg.norm_position

        def norm(suffix):
            return Norm(cfg.norm, name=f"{name}_{suffix}")

        with jax.named_scope(name):
            h_BTD = f(x_BTD if where == "post" else norm("norm")(x_BTD))
            if where == "both":
                h_BTD = norm("post_norm")(h_BTD)
            if cfg.dropout and self.has_rng("dropout"):
                h_BTD = nn.Dropout(cfg.dropout, deterministic=False)(h_BTD)
            x_BTD = x_BTD + h_BTD
            return norm("norm")(x_BTD) if where == "post" else x_BTD


class Repeat(nn.Module):
    """One repeat of a group: its pattern, unrolled; the body of the scan."""

    cfg: ModelConfig
    layout: LayoutConfig
    pattern: tuple[LayerSpec, ...]
    cross: bool

    @nn.compact
    def __call__(self, carry, layer, mask, positions_BT, encoded, slot):
        x_BTD, caches = carry
        written = []
        for i, spec in enumerate(self.pattern):
            block = Block(self.cfg, self.layout, spec, self.cross, name=f"layer_{i}")
            cached = None if caches is None else (caches[i], layer, slot)
            x_BTD, layers = block(x_BTD, mask, positions_BT, encoded, cached)
            written.append(layers)
        return (x_BTD, None if caches is None else tuple(written)), None


class Stack(nn.Module):
    """Groups of layers over embeddings, positions and a mask; ends normed.

    A group scans over its repeats, so its weights are stacked on a first axis `L`
    whatever `layout.unroll` is.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask,
        positions_BT: jax.Array,
        encoded: tuple[jax.Array, Mask] | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, tuple[tuple[Layers, ...] | None, ...]]:
        slot = None if cache is None else cache.slot
        written = []
        for i, group in enumerate(self.cfg.layers):
            caches = None if cache is None else cache.layers[i]
            (x_BTD, caches), _ = self._scan(group, f"group_{i}")(
                (x_BTD, caches),
                jnp.arange(group.repeat),
                mask,
                positions_BT,
                encoded,
                slot,
            )
            written.append(caches)
        if self.cfg.norm_position != "post":
            x_BTD = Norm(self.cfg.norm, name="final_norm")(x_BTD)
        return x_BTD, tuple(written)

    def _scan(self, group: Group, name: str) -> nn.Module:
        body: Any = Repeat
        if self.layout.remat != "none":
            policy = REMAT_POLICIES[self.layout.remat]
            # without a loop nothing else keeps XLA from undoing it
            unrolled = self.layout.unroll >= group.repeat
            body = nn.remat(Repeat, policy=policy, prevent_cse=unrolled)
        scanned = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=group.repeat,
            unroll=min(self.layout.unroll, group.repeat),
            metadata_params={nn.PARTITION_NAME: "L"},
        )
        return scanned(self.cfg, self.layout, group.pattern, self.cross, name=name)


class Embedder(nn.Module):
    """Tokens to vectors and, when tied, back; adds absolute positions."""

    cfg: ModelConfig
    layout: LayoutConfig

    def setup(self):
        cfg = self.cfg
        self.drop = nn.Dropout(cfg.dropout, deterministic=False)
        init = nn.initializers.normal(cfg.init_std)
        self.table: Any = self.param(
            "table",
            nn.with_logical_partitioning(init, ("V", "D")),
            (cfg.vocab_size, cfg.d_model),
        )
        if isinstance(cfg.positions, Learned):
            self.learned: Any = self.param(
                "positions",
                nn.with_logical_partitioning(init, (None, "D")),
                (cfg.positions.max_length, cfg.d_model),
            )

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        x_BTD = self.table[tokens_BT]
        if isinstance(cfg.positions, Learned):
            x_BTD = x_BTD + self.learned[positions_BT]
        elif isinstance(cfg.positions, Sinusoidal):
            wavelength = cfg.positions.max_wavelength
            x_BTD = x_BTD + sinusoidal(positions_BT, cfg.d_model, wavelength)
        x_BTD = x_BTD.astype(dtype)
        if cfg.dropout and self.has_rng("dropout"):
            x_BTD = self.drop(x_BTD)
        return nn.with_logical_constraint(x_BTD, ("act_B", "act_T", "act_D"))


class Transformer(nn.Module):
    """Decoder, encoder, or encoder-decoder: tokens in, last hidden states out.

    A batch holds `tokens` [B, T], and where rows are packed or padded `segment_ids`
    and `positions` [B, T]; an encoder-decoder reads its encoder's from the same names
    after `encoder_`. Dropout is on when an rng named "dropout" is given.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg, layout = self.cfg, self.layout
        self.embedder = Embedder(cfg, layout)
        two = cfg.architecture == "encoder_decoder"
        if two:
            self.encoder = Stack(cfg, layout)
        self.stack = Stack(cfg, layout, cross=two)

    def __call__(
        self,
        batch: Batch,
        cache: Cache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Hidden states [B, T, D], and the cache when one is given.

        Args:
          batch: as above; with a cache, `tokens` are the T new ones.
          cache: of the tokens before.
          encoded_BSD: what `encode(batch)` gave, to not compute it again.
        """
        tokens_BT = batch["tokens"]
        T = tokens_BT.shape[1]
        segments_BT, given_BT = batch.get("segment_ids"), batch.get("positions")
        positions_BT = given_BT
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(T), tokens_BT.shape)
            if cache is not None:
                positions_BT = positions_BT + cache.slot
        encoded = None
        if self.cfg.architecture == "encoder_decoder":
            source = self.encode(batch) if encoded_BSD is None else encoded_BSD
            k_segments = batch.get("encoder_segment_ids")
            encoded = source, Mask(q_segments_BT=segments_BT, k_segments_BS=k_segments)
        causal = self.cfg.architecture != "encoder"
        if cache is None:
            mask = Mask(given_BT, given_BT, segments_BT, segments_BT, causal)
        else:
            q_segments = (
                jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT
            )
            cache = cache.extend(positions_BT, q_segments)
            mask = Mask(
                positions_BT, cache.positions_BS, q_segments, cache.segments_BS, causal
            )
        x_BTD = self.embedder(tokens_BT, positions_BT)
        x_BTD, written = self.stack(x_BTD, mask, positions_BT, encoded, cache)
        return x_BTD, None if cache is None else cache.advance(written, T)

    def encode(self, batch: Batch) -> jax.Array:
        """The encoder's last hidden states [B, S, D] of an encoder-decoder."""
        tokens = batch["encoder_tokens"]
        given = batch.get("encoder_positions")
        positions = given
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        segments = batch.get("encoder_segment_ids")
        x_BSD = self.embedder(tokens, positions)
        mask = Mask(given, given, segments, segments)
        return self.encoder(x_BSD, mask, positions)[0]
