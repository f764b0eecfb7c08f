"""Who may attend to whom: causality, windows, padding, packing, blocks."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import BlockSparse


@flax.struct.dataclass
class Mask:
    """The fields that a mask is computed from; `dense` computes it.

    `segments` of None say that no row is packed or padded, `positions` of None that
    both sides count 0, 1, 2…; then nothing need be computed per row.

    Attributes:
      q_positions_BT, k_positions_BS: int positions within their segment.
      q_segments_BT, k_segments_BS: int segment ids; 0 is padding, seen by nobody.
      causal: a query sees no key after it.
      window: a query sees keys less than this many positions away; None: all.
      k_prefix_BS: bool, keys of a prefix, which all queries of their segment see.
      hidden_BTS: bool, any further pairs that may not meet (XLNet's permutations).
      blocks: a block-sparse pattern of positions, if any.
    """

    q_positions_BT: Any = None
    k_positions_BS: Any = None
    q_segments_BT: Any = None
    k_segments_BS: Any = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)
    k_prefix_BS: Any = None
    hidden_BTS: Any = None
    blocks: BlockSparse | None = flax.struct.field(pytree_node=False, default=None)

    def with_(self, **changes: Any) -> "Mask":
        """The same mask with other fields."""
        return dataclasses.replace(self, **changes)

    def positions(self, T: int, S: int) -> tuple[jax.Array, jax.Array]:
        """Positions of queries [B or 1, T] and keys [B or 1, S]; counted where None."""
        q, k = self.q_positions_BT, self.k_positions_BS
        q = jnp.arange(T)[None] if q is None else q
        return q, jnp.arange(S)[None] if k is None else k

    def block(self, q: slice, k: slice) -> "Mask":
        """The mask of these queries against these keys (positions must not be None)."""

        def cut(x, *slices):
            return None if x is None else x[(slice(None), *slices)]

        return dataclasses.replace(
            self,
            q_positions_BT=cut(self.q_positions_BT, q),
            k_positions_BS=cut(self.k_positions_BS, k),
            q_segments_BT=cut(self.q_segments_BT, q),
            k_segments_BS=cut(self.k_segments_BS, k),
            k_prefix_BS=cut(self.k_prefix_BS, k),
            hidden_BTS=cut(self.hidden_BTS, q, k),
        )

    def dense(self, T: int, S: int) -> jax.Array | None:
        """Bool [B or 1, T, S], True where visible; None when all is visible."""
        return make_mask(self, T, S)

    def features(self) -> set[str]:
        """Features that an implementation must honour, by `CAPABILITIES`' names."""
        present = {
            "causal": self.causal,
            "bidirectional": not self.causal,
            "window": self.window is not None,
            "blocks": self.blocks is not None,
            "segments": self.k_segments_BS is not None,
            "prefix": self.k_prefix_BS is not None,
            "pairs": self.hidden_BTS is not None,
        }
        return {name for name, value in present.items() if value}


def make_mask(mask: Mask, T: int, S: int) -> jax.Array | None:
    """The one function that builds masks: True where query t may see key s."""
    visible = None

    def also(condition):
        nonlocal visible
        visible = condition if visible is None else visible & condition

    if mask.causal or mask.window is not None or mask.blocks is not None:
        q, k = mask.positions(T, S)
        q_BT1, k_B1S = q[:, :, None], k[:, None, :]
        if mask.causal:
            past_BTS = q_BT1 >= k_B1S
            if mask.k_prefix_BS is not None:
                past_BTS = past_BTS | mask.k_prefix_BS[:, None, :]
            also(past_BTS)
        if mask.window is not None:
            also(jnp.abs(q_BT1 - k_B1S) < mask.window)
        if mask.blocks is not None:
            also(sparse(mask.blocks, q_BT1, k_B1S))
    if mask.k_segments_BS is not None:
        k_segments = mask.k_segments_BS[:, None, :]
        also(k_segments > 0)
        if mask.q_segments_BT is not None:
            also(mask.q_segments_BT[:, :, None] == k_segments)
    if mask.hidden_BTS is not None:
        also(~mask.hidden_BTS)
    return visible


def sparse(blocks: BlockSparse, q: jax.Array, k: jax.Array) -> jax.Array:
    """Whether positions q see positions k (broadcast), by their blocks' numbers."""
    i, j = q // blocks.block, k // blocks.block
    near = jnp.abs(i - j) < blocks.local
    return near | (j % blocks.stride == blocks.stride - 1)
