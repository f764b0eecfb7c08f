"""Learned positions: one trained vector for each, added to the embeddings."""

from typing import Any

import flax.linen as nn
import jax

from llmjax.models.layers import table as read_table
from llmjax.models.positions.scheme import Scheme
from llmjax.parallel import tables


class LearnedScheme(Scheme):
    """Devlin et al. 2018, arXiv:1810.04805, and Radford et al. 2018."""

    def table(self, embedder: nn.Module, size: int) -> Any:
        shape = (self.config.max_length + self.config.offset, size)
        axes, std = ("T", "D"), self.cfg.init_std
        return read_table(embedder, "positions", "BTV,VM->BTM", shape, axes, std)

    def embed(
        self,
        x_BTM: jax.Array,
        positions_BT: jax.Array,
        table: Any,
        dtype: jax.typing.DTypeLike,
    ) -> jax.Array:
        return x_BTM + tables.lookup(table, positions_BT + self.config.offset, dtype)
