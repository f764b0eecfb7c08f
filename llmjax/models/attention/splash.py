"""Splash attention: jax's Pallas kernel for TPU, on one device or on a mesh."""

import functools
from typing import Any

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from llmjax.config import ContextParallelism, Gather, SplashAttention, Ulysses
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import UNMODIFIED, ScoreModifiers
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel import zigzag
from llmjax.parallel.axes import partition_spec
from llmjax.parallel.manual import axis_size, on_devices

AXIS, HEADS = "sequence", "tensor"
BLOCKS = SplashAttention()
GATHER = Gather()


def splash_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
    config: SplashAttention = BLOCKS,
    context: ContextParallelism = GATHER,
) -> Float[Array, "B T N H"]:
    """softmax(q.k) v in blocks that never leave the chip (Dao et al. 2022).

    It masks by index, which within a segment runs as positions do. On a mesh each
    device works on its rows and heads; along `sequence` it has some of the queries
    (context `Gather`; causal ones in zig-zag, so that all have as much to do) or more
    of the heads ("ulysses"). Interpreted, thus slow, on anything but a TPU.

    Raises:
      ValueError: queries of a device that are not a multiple of 128.
    """
    T, N = q_BTNH.shape[1:3]
    sequence = axis_size(AXIS)
    n = (
        sequence if isinstance(context, Gather) else 1
    )  # devices that share a row's queries
    if T % (128 * n):
        raise ValueError(
            f"layout.attention.kind='splash' works on blocks of 128 and the sequence "
            f"has {T} tokens; make data.seq_len a multiple of {128 * n}, or use "
            "'blocked'"
        )
    causal = mask.causal and mask.window is None
    folded = n > 1 and causal and T % (256 * n) == 0
    heads = axis_size(HEADS) * sequence // n
    splash = _kernel(T, N // heads, n, folded, mask, modifiers, config)

    local = functools.partial(_on_one, n, folded)
    segments_BS = mask.k_segments_BS
    q_segments_BT = (
        mask.q_segments_BT if mask.q_segments_BT is not None else segments_BS
    )
    operands = (q_BTNH, k_BSKH, v_BSKH, q_segments_BT, segments_BS, modifiers.sinks_N)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(splash, *operands)
    queries, *specs = _specs(context)
    by_row = n > 1 and (mask.causal or mask.window is not None)
    # of jax's check of sizes alone, which knows no axis that code around is manual over
    sizes = AbstractMesh(mesh.axis_sizes, mesh.axis_names)
    cut = NamedSharding(sizes, PartitionSpec(None, AXIS if by_row else None))
    return on_devices(
        local,
        (splash.manual_sharding_spec(cut), queries, *_where(specs, operands[1:])),
        queries,
    )(splash, *operands)


def _on_one(
    n: int,
    folded: bool,
    splash: Any,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: Any,
    segments_BS: Any,
    sinks_N: Any,
) -> jax.Array:
    """One device's result: its queries, against keys that n devices hold parts of."""
    if n > 1:  # here, so that their gradients are scattered as they are summed
        k_BSKH, v_BSKH, segments_BS = jax.tree.map(
            lambda x: jax.lax.all_gather(x, AXIS, axis=1, tiled=True),
            (k_BSKH, v_BSKH, segments_BS),
        )
    if folded:
        q_BTNH, q_segments_BT = jax.tree.map(
            lambda x: zigzag.fold(x, AXIS, n), (q_BTNH, q_segments_BT)
        )
    segments = None
    if segments_BS is not None:
        segments = kernels.SegmentIds(q_segments_BT, segments_BS)
    swapped = [x.swapaxes(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH)]
    of_row = jax.vmap(functools.partial(splash, sinks=sinks_N))
    o_BTNH = of_row(*swapped, segments).swapaxes(1, 2)
    return zigzag.unfold(o_BTNH, AXIS, n) if folded else o_BTNH


def _specs(context: ContextParallelism) -> tuple[PartitionSpec, ...]:
    """Specs of queries, keys, values, both sides' segments, and sinks."""
    rows, tokens = partition_spec(("act_B", "act_T"), "queries")
    heads: Any = HEADS
    if isinstance(context, Ulysses):
        heads, tokens = (HEADS, AXIS), None
    each, segments = PartitionSpec(rows, tokens, heads), PartitionSpec(rows, tokens)
    return each, each, each, segments, segments, PartitionSpec(heads)


def _where(specs: Any, operands: Any) -> list[Any]:
    """The specs of operands that are there."""
    pairs = zip(specs, operands, strict=True)
    return [PartitionSpec() if x is None else spec for spec, x in pairs]


def _kernel(
    T: int,
    N: int,
    n: int,
    folded: bool,
    mask: Mask,
    modifiers: ScoreModifiers,
    config: SplashAttention,
) -> Any:
    """The kernel of one row and N heads, its T queries cut over n devices."""
    here: Any
    q = block_size(T // n // (2 if folded else 1), config.block_q)
    kv = block_size(T, config.block_kv)
    if mask.window is not None:
        after = 0 if mask.causal else mask.window - 1
        here = masks.LocalMask((T, T), (mask.window - 1, after), offset=0)
    elif mask.causal:
        here = masks.CausalMask((T, T))
    else:  # the same for all queries
        here, n = masks.FullMask((T // n, T)), 1
    if folded:
        here.q_sequence = zigzag.order(T, n).astype(here.q_sequence.dtype)
    fused = config.fused_backward
    return kernels.make_splash_mha(
        masks.MultiHeadMask([here] * N),
        block_sizes=kernels.BlockSizes(
            block_q=q,
            block_kv=kv,
            block_q_dkv=q,
            block_kv_dkv=kv,
            block_kv_dkv_compute=kv,
            block_q_dq=None if fused else q,
            block_kv_dq=None if fused else kv,
            use_fused_bwd_kernel=fused,
        ),
        head_shards=1,
        q_seq_shards=n,
        attn_logits_soft_cap=modifiers.softcap,
        residual_checkpoint_name="context",  # kept with the attention's result
        interpret=mesh_lib.target().platform != "tpu",
    )


def block_size(T: int, largest: int) -> int:
    """The largest multiple of 128 up to `largest` that divides T."""
    return max(b for b in range(128, min(largest, T) + 1, 128) if T % b == 0)
