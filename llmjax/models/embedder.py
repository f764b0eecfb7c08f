"""Tokens, their types and absolute positions as vectors."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.layers import Norm, Projection, compute_dtype, table
from llmjax.models.positions.registry import scheme
from llmjax.parallel import tables


class Embedder(nn.Module):
    """Embeddings of tokens, to which it adds absolute positions and token types.

    M is the size of the embeddings, D the model's. An encoder's embedder has no `table`
    of tokens, because it shares the decoder's.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    own_table: bool = True

    def setup(self):
        cfg = self.cfg
        self.drop = nn.Dropout(cfg.dropout, deterministic=False)
        M = cfg.embedding_size or cfg.d_model

        def vectors(name, count, axis):
            shape, axes, std = (count, M), (axis, "D"), cfg.init_std
            return table(self, name, "BTV,VM->BTM", shape, axes, std)

        if self.own_table:
            self.table: Any = vectors("table", cfg.vocab_size, "V")
        self.scheme = scheme(cfg)
        self.positions: Any = self.scheme.table(self, M)
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

    def embeddings(self, batch: Mapping[str, Any], prefix: str = "") -> jax.Array:
        """The batch's `embeddings` [B, T, M], or those of its `tokens`; scaled.

        Args:
          batch: as `Transformer`'s.
          prefix: of the names in the batch: "encoder_".

        Raises:
          ValueError: neither is there, or they are of another size.
        """
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        x_BTM = batch.get(f"{prefix}embeddings")
        if x_BTM is not None:
            M = cfg.embedding_size or cfg.d_model
            if x_BTM.ndim != 3 or x_BTM.shape[-1] != M:
                raise ValueError(
                    f"the batch's {prefix}embeddings have shape {x_BTM.shape}; the "
                    f"model reads [B, T, {M}]: project them to that size"
                )
            wide = jnp.promote_types(dtype, jnp.float32)  # as `tables.lookup`
            x_BTM = x_BTM.astype(dtype).astype(wide)
        elif f"{prefix}tokens" in batch:
            x_BTM = tables.lookup(self.table, batch[f"{prefix}tokens"], dtype)
        else:
            raise ValueError(
                f"the batch has neither {prefix}tokens nor {prefix}embeddings, but "
                f"{', '.join(sorted(batch))}; give one of them"
            )
        scale = cfg.embedding_scale
        return x_BTM if scale == 1.0 else x_BTM * scale

    def __call__(
        self,
        x_BTM: jax.Array,
        positions_BT: jax.Array,
        token_types_BT: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, M]: embeddings with positions and types, normed and dropped out."""
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        x_BTM = self.scheme.embed(x_BTM, positions_BT, self.positions, dtype)
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

    def project(self, x_BTM: jax.Array) -> jax.Array:
        """[B, T, D]: the stack's input, projected where M is not D."""
        projected = self.cfg.embedding_size is not None
        x_BTD = self.projection(x_BTM) if projected else x_BTM
        return nn.with_logical_constraint(x_BTD, ("act_B_L", "act_T", "act_D"))
