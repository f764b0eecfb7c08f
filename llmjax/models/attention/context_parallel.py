"""Attention where the mesh axis `sequence` cuts the tokens of a row.

`layout.context.kind` says how queries meet keys of other devices:

- gather: each device gathers all keys and values, and keeps its own queries.
- ring: keys and values travel around (`llmjax.models.attention.ring`).
- ulysses: all-to-all, so that each device has whole rows of some heads, and back
  (DeepSpeed-Ulysses, arXiv:2309.14509).
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec

from llmjax.config import ContextParallelism, Gather, LayoutConfig, Ulysses
from llmjax.models.attention.mask import Mask
from llmjax.parallel.axes import partition_spec
from llmjax.parallel.manual import axis_size

AXIS, HEADS = "sequence", "tensor"

# what a context refuses that the implementation of attention may well honour
REFUSED: dict[str, set[str]] = {
    "gather": set(),
    "ring": {"content bias", "dropout", "pairs"},
    "ulysses": set(),
}
# implementations that work in a context; the ring has tiles of its own, and takes only
# their size from these
KINDS: dict[str, set[str]] = {
    "gather": {"einsum", "blocked", "chunked", "dot_product", "splash"},
    "ring": {"einsum", "blocked", "chunked"},
    "ulysses": {"einsum", "blocked", "chunked", "dot_product", "splash"},
}


def kinds(context: ContextParallelism) -> set[str]:
    """Implementations that work in a context, where the mesh has the axis."""
    return KINDS[context.kind] if axis_size(AXIS) > 1 else set().union(*KINDS.values())


def check(
    layout: LayoutConfig,
    features: set[str],
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
) -> None:
    """An error for what `layout.context` can't do with these tensors; else nothing.

    Args:
      layout: without a mesh around, its sizes count.
      features: of mask and modifiers, as the capability table names them.
      q_shape, k_shape: [B, T, N, H] and [B, S, K, H].

    Raises:
      ValueError: it names the field and what to change.
    """
    n, context = axis_size(AXIS, layout), layout.context.kind
    kind = layout.attention.kind
    if n == 1:
        return
    if missing := features & REFUSED[context]:
        able = [name for name, cannot in REFUSED.items() if not features & cannot]
        raise ValueError(
            f"layout.context.kind={context!r} cannot honour "
            f"{', '.join(sorted(missing))}, which this model or batch asks for; "
            f"{', '.join(able)} can"
        )
    if kind not in KINDS[context]:
        raise ValueError(
            f"layout.context.kind={context!r} attends by tiles of its own and cannot "
            f"use layout.attention.kind={kind!r}; make it one of "
            f"{', '.join(sorted(KINDS[context]))}, or layout.context.kind 'ulysses'"
        )
    folded = "causal" in features and not features & {"window", "prefix", "cross"}
    unit = 2 * n if context == "ring" and folded else n
    if context == "gather" and kind == "splash":
        unit = 128 * n  # its blocks
    for name, length in (("queries", q_shape[1]), ("keys", k_shape[1])):
        if length % unit:
            raise ValueError(
                f"layout.context.kind={context!r} cuts {length} {name} a row over "
                f"layout.sequence={n}; make data.seq_len (or encoder_seq_len) a "
                f"multiple of {unit}"
            )
    if context == "ulysses":
        _check_heads(layout, n, q_shape[2], k_shape[2])


def _check_heads(layout: LayoutConfig, n: int, N: int, K: int) -> None:
    parts = n * axis_size(HEADS, layout)
    for name, heads in (("num_heads", N), ("num_kv_heads", K)):
        if heads % parts:
            raise ValueError(
                f"layout.context.kind='ulysses' deals model.{name}={heads} heads over "
                f"layout.sequence={n} x layout.tensor={parts // n} devices; make "
                f"{parts} divide them, or layout.context.kind 'ring' or 'gather'"
            )


def spread(
    layout: LayoutConfig,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKW: jax.Array,
    mask: Mask,
) -> tuple[jax.Array, jax.Array, jax.Array, Mask]:
    """The operands as an implementation gets them, in "gather" or "ulysses"."""
    keys = _gather_rows(mask, "k_positions_BS", "k_segments_BS", "k_prefix_BS")
    if isinstance(layout.context, Gather):
        if layout.attention.kind == "splash":  # gathers them itself
            return q_BTNH, k_BSKH, v_BSKW, mask
        return _place(q_BTNH, _own()), _gathered(k_BSKH), _gathered(v_BSKW), keys
    everything = _gather_rows(keys, "q_positions_BT", "q_segments_BT", "hidden_BTS")
    return _to_heads(q_BTNH), _to_heads(k_BSKH), _to_heads(v_BSKW), everything


def collect(layout: LayoutConfig, o_BTNW: jax.Array) -> jax.Array:
    """The result, each device's queries and heads its own again."""
    if isinstance(layout.context, Ulysses):
        o_BTNW = _place(o_BTNW, _whole_rows())
    return _place(o_BTNW, _own())


def _own() -> PartitionSpec:
    """Each device has some tokens of some heads, of keys' heads too."""
    return partition_spec(("act_B", "act_T", "act_N", None), "attention")


def _whole_rows() -> PartitionSpec:
    """Each device has all tokens of fewer heads."""
    return PartitionSpec(_own()[0], None, (HEADS, AXIS))


def _to_heads(x_BTNH: jax.Array) -> jax.Array:
    """All-to-all, and back for gradients: both ends are pinned, or XLA moves them."""
    return _place(_place(x_BTNH, _own()), _whole_rows())


@jax.custom_vjp
def _gathered(x_BSKH: jax.Array) -> jax.Array:
    """Keys or values of whole rows; their gradients lie as the operands did."""
    rows, _, heads, _ = _own()
    return _place(x_BSKH, PartitionSpec(rows, None, heads))


_gathered.defvjp(
    lambda x_BSKH: (_gathered(x_BSKH), None), lambda _, dx: (_place(dx, _own()),)
)


def _gather_rows(mask: Mask, *names: str) -> Mask:
    """The mask with these arrays of whole rows on each device."""

    def place(x):
        return _place(x, PartitionSpec(_own()[0] if x.shape[0] > 1 else None))

    arrays = {name: getattr(mask, name) for name in names}
    return mask.with_(**{k: place(x) for k, x in arrays.items() if x is not None})


def _place(x: Any, spec: PartitionSpec) -> Any:
    return jax.lax.with_sharding_constraint(x, spec)
