"""Inputs of every layer of a stack besides the hidden states."""

from typing import Any

import flax.struct

from llmjax.models.attention.mask import Mask


@flax.struct.dataclass
class Context:
    """The same for all layers of a stack.

    Attributes:
      mask: who sees whom, before a layer's own pattern.
      positions_BT: of the queries.
      lengths_BT: of the texts that the queries are part of, for rates of rotation that
        follow it; None where no layer's do.
      encoded_BSD: the encoder's states; None where there are none, or where the cache
        holds their keys and values.
      cross_mask: of the decoder's queries against the encoder's keys.
      shared_positions: what the layers' position schemes share; see `Scheme.shared`.
      token_types_BT: for scores that depend on them (XLNet).
      streams: 2 where the queries are two streams, content before query, of T tokens
        each, and only the content gives keys and values (XLNet).
    """

    mask: Mask
    positions_BT: Any
    lengths_BT: Any = None
    encoded_BSD: Any = None
    cross_mask: Mask | None = None
    shared_positions: Any = None
    token_types_BT: Any = None
    streams: int = flax.struct.field(pytree_node=False, default=1)
