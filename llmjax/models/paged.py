"""Keys and values in pages: rows of any length share one pool, as virtual memory does.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with
PagedAttention", arXiv:2309.06180. A page holds the keys and values of a few tokens that
follow each other; a row has a table of its pages. So rows join, leave and grow without
moving anything, and rows that begin alike share pages.
"""

import dataclasses
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import Latent, ModelConfig
from llmjax.models.attention.mask import Mask
from llmjax.models.cache import Cache, KeyValues, LayerCache

UNUSED = 0  # the page where padding is written; no row has it


@flax.struct.dataclass
class Place:
    """Where T new tokens of each row go, and where all of a row are.

    Attributes:
      table_BM: the pages of each row in the order of its text; `UNUSED` at the end.
      positions_BT, pages_BT, offsets_BT: of the new tokens.
    """

    table_BM: Any
    positions_BT: Any
    pages_BT: Any
    offsets_BT: Any


@flax.struct.dataclass
class PagedKeyValues(KeyValues):
    """Keys and values as [L, pages, tokens of a page, K, H]."""

    def write(self, layer: jax.Array, slot: Any, k_BTKH: jax.Array, v: Any) -> Any:
        """Puts T new keys and values of each row at their `Place`."""

        def put(old_LPSKH, new_BTKH):
            at = old_LPSKH.at[layer, slot.pages_BT, slot.offsets_BT]
            return at.set(new_BTKH.astype(old_LPSKH.dtype))

        return dataclasses.replace(
            self,
            k_LBSKH=put(self.k_LBSKH, k_BTKH),
            v_LBSKH=None if v is None else put(self.v_LBSKH, v),
        )

    def extend(
        self, layer: jax.Array, slot: Any, k: jax.Array, v: Any, mask: Mask
    ) -> tuple[KeyValues, jax.Array, Any, Mask]:
        new = self.write(layer, slot, k, v)

        # a page keeps what another row left in it, and 0 times NaN is NaN
        is_own_BS11 = mask.k_segments_BS[:, :, None, None] > 0

        def gathered(all_LPSKH):
            pages_BMSKH = all_LPSKH[layer, slot.table_BM]
            B, M, S, K, H = pages_BMSKH.shape
            all_BSKH = pages_BMSKH.reshape(B, M * S, K, H)
            return jnp.where(is_own_BS11, all_BSKH, 0)

        return new, *jax.tree.map(gathered, (new.k_LBSKH, new.v_LBSKH)), mask


@flax.struct.dataclass
class PagedCache:
    """A decoder's keys and values in pages; it stands where a `Cache` does.

    A row's tokens are those of one text, at the positions 0, 1, 2…, in segment 1.

    Attributes:
      layers: for each group, for each layer of its pattern; of all rows.
      slot: where the new tokens go.
      lengths_B: tokens of each row with its new ones.
    """

    layers: tuple[tuple[LayerCache, ...], ...]
    slot: Place
    lengths_B: Any

    def next_positions(self, counted_BT: jax.Array) -> jax.Array:
        """The positions of new tokens, each row's own."""
        return cast(jax.Array, self.slot.positions_BT)

    def mask(self, mask: Mask) -> Mask:
        """The mask of T new tokens, with all tokens of their row as its keys."""
        page = self.layers[0][0].own.k_LBSKH.shape[2]
        index_1S = jnp.arange(self.slot.table_BM.shape[1] * page)[None]
        return mask.with_(
            k_positions_BS=index_1S,
            k_segments_BS=(index_1S < self.lengths_B[:, None]).astype(jnp.int32),
        )

    def advance(
        self, layers: tuple[tuple[LayerCache, ...] | None, ...], mask: Mask, T: int
    ) -> "PagedCache":
        """The cache with the new tokens in `layers`."""
        return dataclasses.replace(self, layers=cast(Any, layers))


AnyCache = Cache | PagedCache


def place(table_BM: Any, lengths_B: Any, counts_B: Any, T: int, page: int) -> Place:
    """Where the next tokens of each row go.

    Args:
      table_BM: the rows' pages.
      lengths_B: tokens of each row that are there.
      counts_B: new ones; of the T, those after them are padding.
      T: new tokens of a row at most.
      page: tokens of a page.
    """
    index_T = jnp.arange(T)
    at_BT = lengths_B[:, None] + index_T
    last = table_BM.shape[1] - 1
    pages_BT = jnp.take_along_axis(table_BM, jnp.minimum(at_BT // page, last), axis=1)
    is_new_BT = index_T < counts_B[:, None]
    return Place(table_BM, at_BT, jnp.where(is_new_BT, pages_BT, UNUSED), at_BT % page)


def empty_pages(
    cfg: ModelConfig, pages: int, page: int, dtype: jnp.dtype
) -> tuple[tuple[LayerCache, ...], ...]:
    """A pool of so many pages of `page` tokens each, `UNUSED` among them."""

    def layer(repeat: int) -> LayerCache:
        if isinstance(cfg.heads, Latent):
            size = cfg.heads.rank + cfg.heads.rotary_dim
            latent = jnp.zeros((repeat, pages, page, 1, size), dtype)
            return LayerCache(PagedKeyValues(latent, None))
        shape = (repeat, pages, page, cfg.K, cfg.H)
        return LayerCache(
            PagedKeyValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        )

    return tuple(tuple(layer(g.repeat) for _ in g.pattern) for g in cfg.layers)
