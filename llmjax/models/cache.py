"""The key/value cache: an explicit argument and result, carried through the scan."""

import dataclasses
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from llmjax.config import Group, Latent, LayerSpec, ModelConfig, SlidingWindow
from llmjax.models.attention.mask import Mask


@flax.struct.dataclass
class KeyValues:
    """Keys and values of one layer of a group's pattern, stacked over its repeats.

    Latent attention keeps one vector a token, in `k`, as of one key head; `v` is None.
    """

    k_LBSKH: Any  # arrays, or what jax puts in their place
    v_LBSKH: Any

    def extend(
        self, layer: jax.Array, slot: Any, k: jax.Array, v: Any, mask: Mask
    ) -> tuple["KeyValues", jax.Array, Any, Mask]:
        """Adds T tokens at `slot`; returns all keys and values, and their mask."""
        new = self.write(layer, slot, k, v)
        return new, *new.read(layer), mask

    def write(self, layer: jax.Array, slot: Any, k_BTKH: jax.Array, v: Any) -> Any:
        """Puts T new keys and values at `slot` of `layer`, in place."""

        def put(old, new):
            start = (layer, 0, slot, 0, 0)
            return lax.dynamic_update_slice(old, new[None].astype(old.dtype), start)

        return dataclasses.replace(
            self,
            k_LBSKH=put(self.k_LBSKH, k_BTKH),
            v_LBSKH=None if v is None else put(self.v_LBSKH, v),
        )

    def read(self, layer: jax.Array) -> tuple[jax.Array, Any]:
        """The keys and values of `layer`, both [B, S, K, H]."""
        k, v = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, layer, keepdims=False),
            (self.k_LBSKH, self.v_LBSKH),
        )
        return k, v


@flax.struct.dataclass
class WindowKeyValues(KeyValues):
    """The last W tokens only, token n at n % W, for a window of W."""

    def extend(
        self, layer: jax.Array, slot: Any, k: jax.Array, v: Any, mask: Mask
    ) -> tuple["KeyValues", jax.Array, Any, Mask]:
        W, T = self.k_LBSKH.shape[2], k.shape[1]
        index_W = jnp.arange(W)
        if T == 1:  # the token that leaves is the first that the window hides
            new = self.write(layer, slot % W, k, v)
            slots_W = slot - (slot - index_W) % W
            return new, *new.read(layer), _in_slots(mask, slots_W)
        last = slot - 1
        slots = jnp.concatenate([last - (last - index_W) % W, slot + jnp.arange(T)])
        old = self.read(layer)
        k_all, v_all = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b.astype(a.dtype)], 1), old, (k, v)
        )
        kept = min(T, W)
        index = (slot + T - kept + jnp.arange(kept)) % W

        def put(all_LBWKH, x):
            return all_LBWKH.at[layer, :, index].set(
                jnp.swapaxes(x[:, -kept:], 0, 1).astype(all_LBWKH.dtype)
            )

        rings = jax.tree.map(put, (self.k_LBSKH, self.v_LBSKH), (k, v))
        return WindowKeyValues(*rings), k_all, v_all, _in_slots(mask, slots)


def _in_slots(mask: Mask, slots_W: jax.Array) -> Mask:
    """The mask against the tokens of these slots; negative ones were never filled."""
    index = jnp.maximum(slots_W, 0)
    segments = jnp.where(slots_W >= 0, mask.k_segments_BS[:, index], 0)
    return mask.with_(
        k_positions_BS=mask.k_positions_BS[:, index], k_segments_BS=segments
    )


@flax.struct.dataclass
class LayerCache:
    """Keys and values of one layer of a pattern: its own, and the encoder's."""

    own: KeyValues
    cross: KeyValues | None = None


@flax.struct.dataclass
class Cache:
    """A decoder's keys and values of the tokens so far.

    Attributes:
      layers: for each group, for each layer of its pattern.
      slot: int scalar, where the next token goes; one for all rows, so prompts of
        different lengths are padded on the left.
      positions_BS, segments_BS: of the tokens in the slots; segment 0 is empty.
    """

    layers: tuple[tuple[LayerCache, ...], ...]
    slot: Any
    positions_BS: Any
    segments_BS: Any

    def next_positions(self, counted_BT: jax.Array) -> jax.Array:
        """The positions of new tokens, which are counted from 0."""
        return counted_BT + self.slot

    def mask(self, mask: Mask) -> Mask:
        """The mask of T new tokens, with all tokens so far as its keys."""
        at = (0, self.slot)
        positions_BT, segments_BT = mask.q_positions_BT, mask.q_segments_BT
        return mask.with_(
            k_positions_BS=lax.dynamic_update_slice(
                self.positions_BS, positions_BT, at
            ),
            k_segments_BS=lax.dynamic_update_slice(self.segments_BS, segments_BT, at),
        )

    def take(self, rows_B: jax.Array, *, cross: bool) -> "Cache":
        """The cache whose row b is row rows_B[b] of this one.

        Args:
          rows_B: int; any number of them.
          cross: the encoder's keys and values, positions and segments too; else they
            stay, as where a row goes on with another of the same prompt.
        """

        def taken(tree: Any, axis: int) -> Any:
            return jax.tree.map(lambda x: jnp.take(x, rows_B, axis=axis), tree)

        layers = tuple(
            tuple(
                LayerCache(
                    taken(layer.own, 1),
                    taken(layer.cross, 1) if cross else layer.cross,
                )
                for layer in group
            )
            for group in self.layers
        )
        if not cross:
            return dataclasses.replace(self, layers=layers)
        numbers = taken((self.positions_BS, self.segments_BS), 0)
        return Cache(layers, self.slot, *numbers)

    def advance(
        self, layers: tuple[tuple[LayerCache, ...] | None, ...], mask: Mask, T: int
    ) -> "Cache":
        """The cache after T new tokens, seen through `mask`, filled `layers`."""
        return Cache(
            layers=cast(Any, layers),
            slot=self.slot + T,
            positions_BS=mask.k_positions_BS,
            segments_BS=mask.k_segments_BS,
        )


def empty_cache(
    cfg: ModelConfig, B: int, S: int, dtype: jnp.dtype, encoder_length: int = 0
) -> Cache:
    """A cache for B rows of up to S tokens (prompt and continuation together).

    An encoder-decoder's also holds the keys and values of `encoder_length` tokens.
    """

    def pair(cls: Any, repeat: int, length: int) -> Any:
        if isinstance(cfg.heads, Latent):
            size = cfg.heads.rank + cfg.heads.rotary_dim
            return cls(jnp.zeros((repeat, B, length, 1, size), dtype), None)
        shape = (repeat, B, length, cfg.K, cfg.H)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def layer_cache(group: Group, spec: LayerSpec) -> LayerCache:
        pattern = spec.pattern
        window = pattern.window if isinstance(pattern, SlidingWindow) else S
        own = pair(
            WindowKeyValues if window < S else KeyValues, group.repeat, min(window, S)
        )
        if cfg.architecture != "encoder_decoder":
            return LayerCache(own)
        return LayerCache(own, pair(KeyValues, group.repeat, encoder_length))

    def numbers() -> jax.Array:  # two buffers: a donated one cannot be shared
        return jnp.zeros((B, S), jnp.int32)

    groups = tuple(
        tuple(layer_cache(g, spec) for spec in g.pattern) for g in cfg.layers
    )
    return Cache(groups, jnp.zeros((), jnp.int32), numbers(), numbers())
