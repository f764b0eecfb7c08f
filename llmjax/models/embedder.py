"""Tokens, their types and absolute positions as vectors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, Learned, ModelConfig, Sinusoidal
from llmjax.models.layers import Norm, Projection, compute_dtype, table
from llmjax.models.positions.rotary import sinusoidal
from llmjax.parallel import tables


class Embedder(nn.Module):
    """Tokens to vectors and, when tied, back; adds absolute positions and types.

    Without a `table` of its own (an encoder's, which shares the decoder's) it is given
    the vectors of the tokens.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    own_table: bool = True

    def setup(self):
        cfg = self.cfg
        self.drop = nn.Dropout(cfg.dropout, deterministic=False)
        M = cfg.embedding_size or cfg.d_model

        def vectors(name, count, axis):
            shape, axes = (count, M), (axis, "D")
            return table(self, name, "BTV,VM->BTM", shape, axes, cfg.init_std)

        if self.own_table:
            self.table: Any = vectors("table", cfg.vocab_size, "V")
        if isinstance(cfg.positions, Learned):
            count = cfg.positions.max_length + cfg.positions.offset
            self.positions: Any = vectors("positions", count, "T")
        if cfg.token_types:
            self.token_types: Any = vectors("token_types", cfg.token_types, None)
        if cfg.embedding_norm:
            self.norm = Norm(cfg.norm)
        if cfg.embedding_size is not None:
            shape, axes = (M, cfg.d_model), ("D", "D_out")
            dtype = compute_dtype(self.layout)
            self.projection = Projection(
                "BTM,MD->BTD", shape, axes, cfg.init_std, 1, dtype
            )

    def lookup(self, tokens_BT: jax.Array) -> jax.Array:
        """The vectors of tokens, scaled."""
        scale = self.cfg.embedding_scale
        x_BTM = tables.lookup(self.table, tokens_BT, compute_dtype(self.layout))
        return x_BTM if scale == 1.0 else x_BTM * scale

    def __call__(
        self,
        x_BTM: jax.Array,
        positions_BT: jax.Array,
        token_types_BT: jax.Array | None = None,
    ) -> jax.Array:
        """What the stack takes: `vectors`, projected where their size is another."""
        x_BTM = self.vectors(x_BTM, positions_BT, token_types_BT)
        projected = self.cfg.embedding_size is not None
        x_BTD = self.projection(x_BTM) if projected else x_BTM
        return nn.with_logical_constraint(x_BTD, ("act_B_L", "act_T", "act_D"))

    def vectors(
        self,
        x_BTM: jax.Array,
        positions_BT: jax.Array,
        token_types_BT: jax.Array | None = None,
    ) -> jax.Array:
        """The vectors of tokens with positions and types, normed and dropped out."""
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        if isinstance(cfg.positions, Learned):
            places_BT = positions_BT + cfg.positions.offset
            x_BTM = x_BTM + tables.lookup(self.positions, places_BT, dtype)
        elif isinstance(cfg.positions, Sinusoidal):
            wavelength, order = cfg.positions.max_wavelength, cfg.positions.order
            size = x_BTM.shape[-1]
            x_BTM = x_BTM + sinusoidal(positions_BT, size, wavelength, order)
        if cfg.token_types:
            types = jnp.zeros_like(positions_BT)
            types = types if token_types_BT is None else token_types_BT
            x_BTM = x_BTM + tables.lookup(self.token_types, types, dtype)
        x_BTM = x_BTM.astype(dtype)
        if cfg.embedding_norm:
            x_BTM = self.norm(x_BTM)
        if cfg.dropout and self.has_rng("dropout"):
            x_BTM = self.drop(x_BTM)
        return x_BTM
