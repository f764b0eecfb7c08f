"""The key/value cache: an explicit argument and result, carried through the scan."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from llmjax.config import ModelConfig


@flax.struct.dataclass
class Layers:
    """Keys and values of one place in a group's pattern, stacked over its repeats."""

    k_LBSKH: Any  # arrays, or what jax puts in their place
    v_LBSKH: Any

    def write(
        self, layer: jax.Array, slot: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array
    ) -> "Layers":
        """Puts T new keys and values at `slot` of `layer`, in place."""
        start = (layer, 0, slot, 0, 0)
        return Layers(
            lax.dynamic_update_slice(
                self.k_LBSKH, k_BTKH[None].astype(self.k_LBSKH.dtype), start
            ),
            lax.dynamic_update_slice(
                self.v_LBSKH, v_BTKH[None].astype(self.v_LBSKH.dtype), start
            ),
        )

    def read(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The keys and values of `layer`, both [B, S, K, H]."""
        k = lax.dynamic_index_in_dim(self.k_LBSKH, layer, keepdims=False)
        return k, lax.dynamic_index_in_dim(self.v_LBSKH, layer, keepdims=False)


@flax.struct.dataclass
class Cache:
    """What a decoder remembers of the tokens so far.

    Attributes:
      layers: per group, per place in its pattern: the keys and values.
      slot: int scalar, where the next token goes; one for all rows, so prompts of
        different lengths are padded on the left.
      positions_BS, segments_BS: of the tokens in the slots; segment 0 is empty.
    """

    layers: tuple[tuple[Layers, ...], ...]
    slot: Any
    positions_BS: Any
    segments_BS: Any

    def extend(self, positions_BT: jax.Array, segments_BT: jax.Array) -> "Cache":
        """Notes T new tokens' positions and segments (`slot` moves in `advance`)."""
        at = (0, self.slot)
        return self.replace(  # type: ignore[attr-defined]
            positions_BS=lax.dynamic_update_slice(self.positions_BS, positions_BT, at),
            segments_BS=lax.dynamic_update_slice(self.segments_BS, segments_BT, at),
        )

    def advance(self, layers: tuple[tuple[Layers, ...] | None, ...], T: int) -> "Cache":
        """The cache after a forward of T tokens filled `layers`."""
        return self.replace(layers=layers, slot=self.slot + T)  # type: ignore[attr-defined]


def empty_cache(cfg: ModelConfig, B: int, S: int, dtype: jnp.dtype) -> Cache:
    """A cache for B rows of up to S tokens (prompt and continuation together)."""

    def layers(repeat: int) -> Layers:
        shape = (repeat, B, S, cfg.K, cfg.H)
        return Layers(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def numbers() -> jax.Array:  # two buffers: a donated one cannot be shared
        return jnp.zeros((B, S), jnp.int32)

    groups = tuple(tuple(layers(g.repeat) for _ in g.pattern) for g in cfg.layers)
    return Cache(groups, jnp.zeros((), jnp.int32), numbers(), numbers())
