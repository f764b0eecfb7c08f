"""Attention as pure functions of queries, keys, values, a mask and modifiers.

`attend` is the one entry; `CAPABILITIES` says what each implementation can honour.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmjax.config import (
    Attention,
    AutoAttention,
    BlockedAttention,
    DotProductAttention,
    EinsumAttention,
    Gather,
    LayoutConfig,
    Ring,
    SplashAttention,
)
from llmjax.models.attention import context_parallel
from llmjax.models.attention.dot_product import dot_product_attention
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import UNMODIFIED, ScoreModifiers
from llmjax.models.attention.ring import ring_attention
from llmjax.models.remat import named
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel.manual import axis_size

HIDDEN = -1e30  # the score of a hidden key; finite, so that empty rows stay finite


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
    modifiers: ScoreModifiers = UNMODIFIED,
) -> jax.Array:
    """softmax(modified q.k) v by the layout's implementation, [B, T, N, H].

    Raises:
      ValueError: something that the implementation cannot honour; it names those
        that can.
    """
    features = mask.features() | modifiers.features()
    if q_BTNH.shape[1] != k_BSKH.shape[1]:
        features |= {"cross"}
    if q_BTNH.shape[-1] != v_BSKH.shape[-1]:
        features |= {"value size"}
    layout = chosen(layout, features, q_BTNH.shape[1])
    kind = layout.attention.kind
    if missing := features - CAPABILITIES[kind]:
        able = [name for name, can in CAPABILITIES.items() if features <= can]
        raise ValueError(
            f"layout.attention.kind={kind!r} cannot honour {', '.join(sorted(missing))}"
            f", which this model or batch asks for; {', '.join(able)} can"
        )
    context_parallel.check(layout, features, q_BTNH.shape, k_BSKH.shape)
    n = axis_size("sequence")
    block = getattr(layout.attention, "block", 0)
    q_BTNH = named(q_BTNH, "query")
    k_BSKH, v_BSKH = named(k_BSKH, "key"), named(v_BSKH, "value")
    if n > 1 and isinstance(layout.context, Ring):
        tile = block or k_BSKH.shape[1]
        o_BTNH = ring_attention(q_BTNH, k_BSKH, v_BSKH, mask, modifiers, tile)
        return named(o_BTNH, "context")
    cut = n if isinstance(layout.context, Gather) else 1  # of the queries
    implementation: Any = {
        "einsum": einsum_attention,
        "blocked": functools.partial(blocked_attention, block=block),
        "chunked": functools.partial(chunked_attention, block=block, shards=cut),
        "dot_product": functools.partial(dot_product_attention, shards=cut),
        "splash": functools.partial(
            splash_attention, config=layout.attention, context=layout.context
        ),
    }[kind]
    operands = q_BTNH, k_BSKH, v_BSKH, mask
    if n > 1:
        operands = context_parallel.spread(layout, *operands)
    o_BTNH = implementation(*operands, modifiers)
    if n > 1:
        o_BTNH = context_parallel.collect(layout, o_BTNH)
    elif kind == "splash":
        return o_BTNH  # the kernel names its own, which is kept once then, not twice
    return named(o_BTNH, "context")


def chosen(layout: LayoutConfig, features: set[str], T: int) -> LayoutConfig:
    """The layout with what "auto" attention stands for; another kind is itself.

    The kernel of the devices that the program is traced for, where it honours these
    features, this many queries and `layout.context`.
    """
    auto = layout.attention
    if not isinstance(auto, AutoAttention):
        return layout
    blocks = auto.block_q, auto.block_kv, auto.fused_backward
    kernels: dict[str, Attention] = {
        "tpu": SplashAttention(*blocks),
        "gpu": DotProductAttention(),
    }
    kernel = kernels.get(mesh_lib.target().platform)
    shards = axis_size("sequence") if isinstance(layout.context, Gather) else 1
    whole_blocks = T % (128 * shards) == 0
    kinds = context_parallel.kinds(layout.context)
    for attention in (kernel, BlockedAttention()):
        if (
            attention is not None
            and features <= CAPABILITIES[attention.kind]
            and attention.kind in kinds
            and (attention.kind != "splash" or whole_blocks)
        ):
            return dataclasses.replace(layout, attention=attention)
    return dataclasses.replace(layout, attention=EinsumAttention())


def einsum_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
) -> Float[Array, "B T N W"]:
    """The reference: all scores at once; each key head serves G = N / K queries.

    The scale is already in q. Softmax in float32. Values may be of another size.
    """
    B, T, N, _ = q_BTNH.shape
    p_BKGTS = _probabilities(q_BTNH, k_BSKH, mask, modifiers)
    p_BKGTS = p_BKGTS.astype(v_BSKW.dtype)
    if modifiers.dropout is not None:
        p_BKGTS = modifiers.dropout(p_BKGTS)
    o_BTKGW = jnp.einsum("BKGTS,BSKW->BTKGW", p_BKGTS, v_BSKW)
    return o_BTKGW.reshape(B, T, N, -1)


def attention_map(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
) -> Float[Array, "B N T S"]:
    """The probabilities of `einsum_attention` before dropout, in float32."""
    p_BKGTS = _probabilities(q_BTNH, k_BSKH, mask, modifiers)
    B, _, _, T, S = p_BKGTS.shape
    return p_BKGTS.reshape(B, -1, T, S)


def _probabilities(
    q_BTNH: jax.Array, k_BSKH: jax.Array, mask: Mask, modifiers: ScoreModifiers
) -> jax.Array:
    """softmax(modified q.k) in float32, [B, K, G, T, S]."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    # a product whose axes come out in order: of size T * S, none is transposed
    operands: Any = ("BKGTH,BSKH->BKGTS", jnp.moveaxis(q_BTKGH, 1, 3), k_BSKH)
    if T == 1:  # keys first: a cache is read as it lies, not transposed
        operands = ("BSKH,BTKGH->BKGTS", k_BSKH, q_BTKGH)
    s_BKGTS = jnp.einsum(*operands, preferred_element_type=jnp.float32)
    if modifiers.bias is not None:
        bias = modifiers.bias(*mask.positions(T, S))
        s_BKGTS = s_BKGTS + bias.reshape(bias.shape[0], K, N // K, T, S)
    if modifiers.softcap is not None:
        s_BKGTS = modifiers.softcap * jnp.tanh(s_BKGTS / modifiers.softcap)
    visible = mask.dense(T, S)
    if visible is not None:
        s_BKGTS = jnp.where(visible[:, None, None], s_BKGTS, HIDDEN)
    if modifiers.sinks_N is None:
        p_BKGTS = jax.nn.softmax(s_BKGTS, axis=-1)
    else:
        sinks = modifiers.sinks_N.astype(jnp.float32).reshape(K, N // K, 1, 1)
        sinks = jnp.broadcast_to(sinks, (*s_BKGTS.shape[:-1], 1))
        s_BKGTS = jnp.concatenate([s_BKGTS, sinks], axis=-1)
        p_BKGTS = jax.nn.softmax(s_BKGTS, axis=-1)[..., :-1]
    if mask.hidden_BTS is not None and visible is not None:  # some may see nothing
        p_BKGTS = p_BKGTS * jnp.any(visible, axis=-1)[:, None, None, :, None]
    return p_BKGTS


def blocked_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
    block: int = 128,
) -> Float[Array, "B T N W"]:
    """`einsum_attention` in blocks of queries, without the keys none of them sees.

    Time runs with the index, packed or padded, so no query of a causal block sees a
    key after the block, and none of a windowed one a key a window away.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    if T != S or block >= T:
        return einsum_attention(q_BTNH, k_BSKH, v_BSKW, mask, modifiers)
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
                q_BTNH[:, q], k_BSKH[:, k], v_BSKW[:, k], mask.block(q, k), modifiers
            )
        )
    return jnp.concatenate(out, axis=1)


def chunked_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
    block: int = 512,
    shards: int = 1,
) -> Float[Array, "B T N W"]:
    """`einsum_attention`, a block of queries at a time, computed again backward.

    So scores take [B, N, block, S] and nothing of size T * S is kept: for sequences
    too long for anything else, on any device (Rabe & Staats 2021, 2112.05682). Queries
    that are cut into `shards` give a block of each at a time.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    q_positions_BT, k_positions_BS = mask.positions(T, S)
    count = -(-T // shards // block)

    def blocks(x):
        """[count, B, shards * block, ...] of a tensor, padded at the end of each."""
        if x is None:
            return None
        x = x.reshape(x.shape[0], shards, T // shards, *x.shape[2:])
        pad = [(0, 0)] * x.ndim
        pad[2] = (0, count * block - T // shards)
        x = jnp.pad(x, pad).reshape(*x.shape[:2], count, block, *x.shape[3:])
        x = jnp.moveaxis(x, 2, 0)
        return x.reshape(*x.shape[:2], shards * block, *x.shape[4:])

    queries = (
        blocks(q_BTNH),
        blocks(q_positions_BT),
        blocks(mask.q_segments_BT),
        blocks(mask.hidden_BTS),
    )

    @jax.checkpoint
    def one(_, block_of):
        q, positions, segments, hidden_BTS = block_of
        here = mask.with_(
            q_positions_BT=positions,
            k_positions_BS=k_positions_BS,
            q_segments_BT=segments,
            hidden_BTS=hidden_BTS,
        )
        return None, einsum_attention(q, k_BSKH, v_BSKW, here, modifiers)

    _, out = jax.lax.scan(one, None, queries)
    out = out.reshape(*out.shape[:2], shards, block, *out.shape[3:])
    out = jnp.moveaxis(out, 0, 2)  # [B, shards, count, block, N, W]
    out = out.reshape(*out.shape[:2], count * block, *out.shape[4:])
    return out[:, :, : T // shards].reshape(out.shape[0], T, *out.shape[3:])


def splash_attention(*operands: Any, **settings: Any) -> jax.Array:
    """`splash.splash_attention`; Pallas is imported only where it is needed."""
    from llmjax.models.attention import splash

    return splash.splash_attention(*operands, **settings)
