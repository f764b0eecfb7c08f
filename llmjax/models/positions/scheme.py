"""The protocol of position schemes: where one can act on a Transformer."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import ModelConfig
from llmjax.models.layers import Projection, score_scale

# (query positions [B or 1, T], key positions [B or 1, S]) -> [B or 1, N, T, S]
Bias = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The parts of a layer's attention scores, for a scheme to read.

    Attributes:
      attention: the layer's module; its parameters may be created there.
      query, key: its projections.
      q_BTNH: queries, which hold the scale of the scores.
      k_BSKH: keys, a cache's included.
      shared: `Scheme.shared` of the stack.
      causal: whether no key lies ahead of its query.
      token_types_BT: of the keys' tokens, if the batch has them.
      streams: 2 where the queries are two streams of the same tokens.
    """

    attention: nn.Module
    query: Projection
    key: Projection
    q_BTNH: jax.Array
    k_BSKH: jax.Array
    shared: Any
    causal: bool
    token_types_BT: Any = None
    streams: int = 1


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A position scheme; this one does nothing, and each other overrides what it does.

    Attributes:
      cfg: the model's config.
      config: the scheme's own.
      reads_content: its bias is a function of queries and keys too, and holds for all
        of them together, not for a part.
    """

    cfg: ModelConfig
    config: Any

    reads_content: ClassVar[bool] = False

    def table(self, embedder: nn.Module, size: int) -> Any:
        """A table of vectors of `size`, a parameter of `embedder`; for its `setup`."""
        return None

    def embed(
        self,
        x_BTM: jax.Array,
        positions_BT: jax.Array,
        table: Any,
        dtype: jax.typing.DTypeLike,
    ) -> jax.Array:
        """Token embeddings with absolute positions added."""
        return x_BTM

    def shared(self, owner: nn.Module) -> Any:
        """Values that all layers of a stack read, from parameters of `owner`."""
        return None

    def rotate(
        self,
        x_BTNH: jax.Array,
        positions_BT: jax.Array,
        lengths_BT: jax.Array | None = None,
    ) -> jax.Array:
        """Queries or keys at their positions, before a cache takes them.

        `lengths_BT`: of the texts that they are part of, for rates that follow it.
        """
        return x_BTNH

    def scores(self, scores: Scores) -> tuple[jax.Array, Bias | None]:
        """The queries that meet the keys, and what is added to the scores."""
        return scores.q_BTNH, None

    def scaled(self, x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
        """A term of queries that hold the scale of the scores already."""
        return (x * score_scale(self.cfg, self.cfg.H)).astype(dtype)


def gather_last(scores_BNTX: jax.Array, index_BTS: jax.Array) -> jax.Array:
    """scores[b, n, t, index[b, t, s]], [B, N, T, S]."""
    B, N = scores_BNTX.shape[:2]
    index_BNTS = jnp.broadcast_to(index_BTS[:, None], (B, N, *index_BTS.shape[1:]))
    return jnp.take_along_axis(scores_BNTX, index_BNTS, axis=-1)
