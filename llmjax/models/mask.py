"""Who may attend to whom, said once: causality, windows, padding and packing."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Mask:
    """What a mask is a function of; `dense` makes it.

    `segments` of None say that no row is packed or padded, `positions` of None that
    both sides count 0, 1, 2…; then nothing need be computed per row.

    Attributes:
      q_positions_BT, k_positions_BS: int positions within their segment.
      q_segments_BT, k_segments_BS: int segment ids; 0 is padding, seen by nobody.
      causal: a query sees no key after it.
      window: a query sees keys less than this many positions away; None: all.
    """

    q_positions_BT: jax.Array | None = None
    k_positions_BS: jax.Array | None = None
    q_segments_BT: jax.Array | None = None
    k_segments_BS: jax.Array | None = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)

    def windowed(self, window: int | None) -> "Mask":
        """The same mask for a layer with this window."""
        return dataclasses.replace(self, window=window)

    def block(self, q: slice, k: slice) -> "Mask":
        """The mask of these queries against these keys (positions must be given)."""

        def cut(x, s):
            return None if x is None else x[:, s]

        return dataclasses.replace(
            self,
            q_positions_BT=cut(self.q_positions_BT, q),
            k_positions_BS=cut(self.k_positions_BS, k),
            q_segments_BT=cut(self.q_segments_BT, q),
            k_segments_BS=cut(self.k_segments_BS, k),
        )

    def dense(self, T: int, S: int) -> jax.Array | None:
        """Bool [B or 1, T, S], True where visible; None when all is visible."""
        return make_mask(self, T, S)


def make_mask(mask: Mask, T: int, S: int) -> jax.Array | None:
    """The one function that builds masks: True where query t may see key s."""
    visible = None

    def also(condition):
        nonlocal visible
        visible = condition if visible is None else visible & condition

    q = mask.q_positions_BT
    k = mask.k_positions_BS
    if mask.causal or mask.window is not None:
        q = jnp.arange(T)[None] if q is None else q
        k = jnp.arange(S)[None] if k is None else k
        distance_BTS = q[:, :, None] - k[:, None, :]
        if mask.causal:
            also(distance_BTS >= 0)
        if mask.window is not None:
            also(jnp.abs(distance_BTS) < mask.window)
    if mask.k_segments_BS is not None:
        k_segments = mask.k_segments_BS[:, None, :]
        also(k_segments > 0)
        if mask.q_segments_BT is not None:
            also(mask.q_segments_BT[:, :, None] == k_segments)
    return visible
