"""Attention as pure functions of queries, keys, values, a mask and score terms.

`attend` is the one entry; `CAPABILITIES` says what each implementation can honour.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmjax.config import LayoutConfig
from llmjax.models.mask import Mask

HIDDEN = -1e30  # the score of a hidden key; finite, so that empty rows stay finite


@dataclasses.dataclass(frozen=True)
class Terms:
    """What happens to the scores q.k besides the mask.

    Attributes:
      bias: (q_positions_BT, k_positions_BS) -> [B or 1, N, T, S], added to them.
      content: `bias` holds for these queries and keys as a whole, not for a part.
      softcap: c * tanh((scores + bias) / c), before the mask (Gemma 2).
      sinks_N: one more score per head, which takes probability and gives no value.
      dropout: of the probabilities.
    """

    bias: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    content: bool = False
    softcap: float | None = None
    sinks_N: Any = None
    dropout: nn.Dropout | None = None

    def features(self) -> set[str]:
        """What an implementation must honour, in the words of the capability table."""
        asked = {
            "position bias": self.bias is not None and not self.content,
            "content bias": self.bias is not None and self.content,
            "softcap": self.softcap is not None,
            "sinks": self.sinks_N is not None,
            "dropout": self.dropout is not None,
        }
        return {name for name, wanted in asked.items() if wanted}


PLAIN = Terms()
# "value size": values of another size than keys; "cross": another length than queries
_MASKS = {"causal", "bidirectional", "window", "blocks", "segments", "prefix", "pairs"}
CAPABILITIES: dict[str, set[str]] = {
    "einsum": _MASKS
    | {"cross", "position bias", "content bias", "softcap", "sinks", "dropout"}
    | {"value size"},
    "blocked": _MASKS
    | {"cross", "position bias", "softcap", "sinks", "dropout", "value size"},
    "chunked": _MASKS | {"cross", "position bias", "softcap", "sinks", "value size"},
    "dot_product": _MASKS | {"cross", "position bias", "content bias"},
    "splash": {"causal", "bidirectional", "window", "segments", "softcap", "sinks"},
}


def attend(
    layout: LayoutConfig,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    terms: Terms = PLAIN,
) -> jax.Array:
    """softmax(q.k + terms) v by the layout's implementation, [B, T, N, H].

    Raises:
      ValueError: something that the implementation cannot honour; it names those
        that can.
    """
    kind = layout.attention.kind
    asked = mask.features() | terms.features()
    if q_BTNH.shape[1] != k_BSKH.shape[1]:
        asked |= {"cross"}
    if q_BTNH.shape[-1] != v_BSKH.shape[-1]:
        asked |= {"value size"}
    if missing := asked - CAPABILITIES[kind]:
        able = [name for name, can in CAPABILITIES.items() if asked <= can]
        raise ValueError(
            f"layout.attention.kind={kind!r} cannot honour {', '.join(sorted(missing))}"
            f", which this model or batch asks for; {', '.join(able)} can"
        )
    implementation: Any = {
        "einsum": einsum_attention,
        "blocked": functools.partial(
            blocked_attention, block=getattr(layout.attention, "block", 0)
        ),
        "chunked": functools.partial(
            chunked_attention, block=getattr(layout.attention, "block", 0)
        ),
        "dot_product": dot_product_attention,
        "splash": splash_attention,
    }[kind]
    return implementation(q_BTNH, k_BSKH, v_BSKH, mask=mask, terms=terms)


def einsum_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    terms: Terms = PLAIN,
) -> Float[Array, "B T N W"]:
    """The reference: all scores at once; each key head serves G = N / K queries.

    The scale is already in q. Softmax in float32. Values may be of another size.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    operands: Any = ("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH)
    if T == 1:  # keys first: a cache is read as it lies, not transposed
        operands = ("BSKH,BTKGH->BKGTS", k_BSKH, q_BTKGH)
    s_BKGTS = jnp.einsum(*operands, preferred_element_type=jnp.float32)
    if terms.bias is not None:
        bias = terms.bias(*mask.positions(T, S))
        s_BKGTS = s_BKGTS + bias.reshape(bias.shape[0], K, N // K, T, S)
    if terms.softcap is not None:
        s_BKGTS = terms.softcap * jnp.tanh(s_BKGTS / terms.softcap)
    visible = mask.dense(T, S)
    if visible is not None:
        s_BKGTS = jnp.where(visible[:, None, None], s_BKGTS, HIDDEN)
    if terms.sinks_N is None:
        p_BKGTS = jax.nn.softmax(s_BKGTS, axis=-1)
    else:
        sinks = terms.sinks_N.astype(jnp.float32).reshape(K, N // K, 1, 1)
        sinks = jnp.broadcast_to(sinks, (*s_BKGTS.shape[:-1], 1))
        s_BKGTS = jnp.concatenate([s_BKGTS, sinks], axis=-1)
        p_BKGTS = jax.nn.softmax(s_BKGTS, axis=-1)[..., :-1]
    if mask.hidden_BTS is not None and visible is not None:  # some may see nothing
        p_BKGTS = p_BKGTS * jnp.any(visible, axis=-1)[:, None, None, :, None]
    p_BKGTS = p_BKGTS.astype(v_BSKW.dtype)
    if terms.dropout is not None:
        p_BKGTS = terms.dropout(p_BKGTS)
    o_BTKGW = jnp.einsum("BKGTS,BSKW->BTKGW", p_BKGTS, v_BSKW)
    return o_BTKGW.reshape(B, T, N, -1)


def blocked_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    terms: Terms = PLAIN,
    block: int = 128,
) -> Float[Array, "B T N W"]:
    """`einsum_attention` in blocks of queries, without the keys none of them sees.

    Time runs with the index, packed or padded, so no query of a causal block sees a
    key after the block, and none of a windowed one a key a window away.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    if T != S or block >= T:
        return einsum_attention(q_BTNH, k_BSKH, v_BSKW, mask, terms)
    q_positions_BT, k_positions_BS = mask.positions(T, S)
    mask = mask.with_(q_positions_BT=q_positions_BT, k_positions_BS=k_positions_BS)
    out = []
    for start in range(0, T, block):
        q = slice(start, min(start + block, T))
        first, last = 0, S
        if mask.causal and mask.k_prefix_BS is None:
            last = q.stop
        if mask.window is not None:
            first = max(0, start - mask.window + 1)
            last = min(last, q.stop + mask.window - 1)
        k = slice(first, last)
        out.append(
            einsum_attention(
                q_BTNH[:, q], k_BSKH[:, k], v_BSKW[:, k], mask.block(q, k), terms
            )
        )
    return jnp.concatenate(out, axis=1)


def chunked_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    terms: Terms = PLAIN,
    block: int = 512,
) -> Float[Array, "B T N W"]:
    """`einsum_attention`, a block of queries at a time, computed again backward.

    So scores take [B, N, block, S] and nothing of size T * S is kept: for sequences
    too long for anything else, on any device (Rabe & Staats 2021, 2112.05682).
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    q_positions_BT, k_positions_BS = mask.positions(T, S)
    count = -(-T // block)

    def blocks(x, axis=1):
        """[count, ..., block, ...] of a tensor, padded at the end."""
        if x is None:
            return None
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, count * block - T)
        x = jnp.pad(x, pad)
        shape = (*x.shape[:axis], count, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    queries = (
        blocks(q_BTNH),
        blocks(q_positions_BT),
        blocks(mask.q_segments_BT),
        blocks(mask.hidden_BTS),
    )

    @jax.checkpoint
    def one(_, block_of):
        q, positions, segments, hidden = block_of
        here = mask.with_(
            q_positions_BT=positions,
            k_positions_BS=k_positions_BS,
            q_segments_BT=segments,
            hidden_BTS=hidden,
        )
        return None, einsum_attention(q, k_BSKH, v_BSKW, here, terms)

    _, out = jax.lax.scan(one, None, queries)
    out = jnp.moveaxis(out, 0, 1)  # [B, count, block, N, W]
    return out.reshape(out.shape[0], count * block, *out.shape[3:])[:, :T]


def dot_product_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    terms: Terms = PLAIN,
) -> Float[Array, "B T N W"]:
    """`jax.nn.dot_product_attention`: cuDNN's kernel where the GPU has it, else XLA."""
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    bias = None
    if terms.bias is not None:
        bias = terms.bias(*mask.positions(T, S)).astype(q_BTNH.dtype)
    by_index = mask.features() <= {"causal", "bidirectional"} and T == S
    if by_index and mask.q_positions_BT is None:
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKW, bias, scale=1.0, is_causal=mask.causal
        )
    visible = mask.dense(T, S)
    o_BTNW = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKW,
        bias,
        None if visible is None else visible[:, None],
        scale=1.0,
    )
    if mask.hidden_BTS is not None and visible is not None:
        o_BTNW = o_BTNW * jnp.any(visible, axis=-1)[:, :, None, None]
    return o_BTNW


def splash_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    terms: Terms = PLAIN,
) -> Float[Array, "B T N W"]:
    """jax's splash attention for TPU; interpreted, thus slow, on anything else.

    It masks by index, which within a segment runs as positions do.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    T, N = q_BTNH.shape[1:3]
    if T % 128:
        raise ValueError(
            f"layout.attention.kind='splash' works on blocks of 128 and the sequence "
            f"has {T} tokens; make data.seq_len a multiple of 128, or use 'blocked'"
        )
    here: Any
    if mask.window is not None:
        after = 0 if mask.causal else mask.window - 1
        here = masks.LocalMask((T, T), (mask.window - 1, after), offset=0)
    else:
        here = masks.CausalMask((T, T)) if mask.causal else masks.FullMask((T, T))
    splash: Any = kernel.make_splash_mha(
        masks.MultiHeadMask([here] * N),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=terms.softcap,
        interpret=jax.default_backend() != "tpu",
    )
    swapped = [jnp.swapaxes(x, 1, 2) for x in (q_BTNH, k_BSKH, v_BSKW)]
    segments = None
    if mask.k_segments_BS is not None:
        q_segments = mask.q_segments_BT
        q_segments = mask.k_segments_BS if q_segments is None else q_segments
        segments = kernel.SegmentIds(q_segments, mask.k_segments_BS)
    of_row = jax.vmap(functools.partial(splash, sinks=terms.sinks_N))
    return jnp.swapaxes(of_row(*swapped, segments), 1, 2)
