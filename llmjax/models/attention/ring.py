"""Ring attention: keys and values travel around the mesh axis `sequence`.

Each device keeps its queries and sees the keys of one device after the other, so that
none ever holds all (Liu et al. 2023, arXiv:2310.01889). Backward, keys travel again
together with their gradients; nothing but the attention's result is kept.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from llmjax.models.attention import tiles
from llmjax.models.attention.mask import Mask
from llmjax.models.attention.modifiers import UNMODIFIED, ScoreModifiers
from llmjax.models.attention.tiles import Backward, Keys, Queries, Scoring, Softmax
from llmjax.parallel import zigzag
from llmjax.parallel.axes import BATCH_AXES, partition_spec
from llmjax.parallel.manual import axis_size, on_devices

AXIS, HEADS = "sequence", "tensor"


class Weights(NamedTuple):
    """Operands that have a gradient; `constants` are those of a position bias."""

    q_BTNH: Any
    k_BSKH: Any
    v_BSKW: Any
    sinks_N: Any
    constants: Any


class Rows(NamedTuple):
    """Arrays that mask queries and keys; None, or one row for all, where that does."""

    q_positions_BT: Any
    k_positions_BS: Any
    q_segments_BT: Any
    k_segments_BS: Any
    k_prefix_BS: Any


@dataclasses.dataclass(frozen=True)
class Ring:
    """Who meets whom, and when.

    Attributes:
      n: devices around.
      T: tokens of a row; 0 where queries and keys aren't the same tokens.
      mask: its rules, without arrays.
      prefix: some keys are seen by all.
    """

    n: int
    T: int
    mask: Mask
    prefix: bool

    @property
    def causal(self) -> bool:
        """Keys that come later are seen by nobody."""
        return self.mask.causal and not self.prefix and self.T > 0

    @property
    def folded(self) -> bool:
        """In zig-zag; a window already gives each device as much to do."""
        return self.causal and self.mask.window is None

    @property
    def chunks(self) -> int:
        """Chunks of tokens on each device."""
        return 2 if self.folded else 1

    @property
    def steps(self) -> int:
        """Steps, after which the keys that come are seen by nobody."""
        if self.causal and self.mask.window is not None:
            return min(self.n, 1 + -(-(self.mask.window - 1) // (self.T // self.n)))
        return self.n

    def pairs(self) -> list[tuple[int, int]]:
        """Chunks (of queries, of keys) of two devices that can meet at all."""
        return [(0, 0), (1, 0), (1, 1)] if self.folded else [(0, 0)]

    def meets(self, i: Any, j: Any, pair: tuple[int, int]) -> Any:
        """Whether queries of device i see keys of device j; True is for certain.

        Time runs with the index, packed or padded.
        """
        if self.folded:
            return {(0, 0): j <= i, (1, 0): True, (1, 1): j >= i}[pair]
        meets: Any = True
        if self.causal:
            meets = j <= i
        if self.mask.window is not None and self.T:
            nearest = (jnp.abs(i - j) - 1) * (self.T // self.n) + 1
            meets = (nearest < self.mask.window) & meets
        return meets

    def send(self, x: Any, by: int = 1) -> Any:
        """A tree of arrays to the device that is so many further."""
        to = [(d, (d + by) % self.n) for d in range(self.n)]
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, AXIS, to), x)

    def fold(self, x: Any) -> Any:
        """A tree of consecutive tokens in the order that the ring works in."""
        if not self.folded:
            return x
        return jax.tree.map(lambda leaf: zigzag.fold(leaf, AXIS, self.n), x)

    def unfold(self, x: Any) -> Any:
        """The inverse of `fold`."""
        if not self.folded:
            return x
        return jax.tree.map(lambda leaf: zigzag.unfold(leaf, AXIS, self.n), x)

    def part(self, x: Any, chunk: int) -> Any:
        """A chunk of this device's tokens, the second axis of each array of a tree."""
        return jax.tree.map(lambda leaf: jnp.split(leaf, self.chunks, 1)[chunk], x)


def ring_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKW: Float[Array, "B S K W"],
    mask: Mask,
    modifiers: ScoreModifiers = UNMODIFIED,
    tile: int = 512,
) -> Float[Array, "B T N W"]:
    """softmax(q.k) v, by rings of the devices along `sequence` of the entered mesh.

    Causal attention is folded (`zigzag`), so that all devices have as much to do at
    each step; scores exist for `tile` keys at a time.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    rows = Rows(
        *mask.positions(T, S),
        mask.q_segments_BT,
        mask.k_segments_BS,
        mask.k_prefix_BS,
    )
    rules = Mask(causal=mask.causal, window=mask.window, blocks=mask.blocks)
    prefix = mask.k_prefix_BS is not None
    ring = Ring(axis_size(AXIS), T if T == S else 0, rules, prefix)
    bias, constants = _bias(modifiers, q_BTNH.shape[2], k_BSKH.shape[2])
    scoring = Scoring(rules, modifiers.softcap, bias, tile)
    weights = Weights(q_BTNH, k_BSKH, v_BSKW, modifiers.sinks_N, constants)
    specs = _specs(weights, rows)
    lse = partition_spec(("act_B", "act_K", None, "act_T"), "statistics")

    @jax.custom_vjp
    def attention(weights: Weights, rows: Rows) -> jax.Array:
        return forward(weights, rows)[0]

    def forward(weights, rows):
        body = functools.partial(_forward, ring, scoring)
        return on_devices(body, specs, (specs[0].q_BTNH, lse))(weights, rows)

    def remembered(weights, rows):
        o_BTNW, lse_BKGT = forward(weights, rows)
        o_BTNW = checkpoint_name(o_BTNW, "context")
        lse_BKGT = checkpoint_name(lse_BKGT, "context")
        return o_BTNW, (weights, rows, o_BTNW, lse_BKGT)

    def backward(kept, do_BTNW):
        body = functools.partial(_backward, ring, scoring)
        spec = specs[0].q_BTNH
        gradient = on_devices(body, (*specs, spec, lse, spec), specs[0])
        return gradient(*kept, do_BTNW), None

    attention.defvjp(remembered, backward)
    return attention(weights, rows)


def _specs(weights: Weights, rows: Rows) -> tuple[Weights, Rows]:
    """Where each operand lies."""
    heads = {name: ("act_B", "act_T", f"act_{name}", None) for name in "NK"}
    keys = partition_spec(heads["K"], "keys")
    row = partition_spec(("act_B", "act_T"), "rows")
    one = PartitionSpec(None, row[1])
    return (
        Weights(
            partition_spec(heads["N"], "queries"),
            keys,
            keys,
            None if weights.sinks_N is None else partition_spec(("act_N",), "sinks"),
            jax.tree.map(lambda _: PartitionSpec(), weights.constants),
        ),
        Rows(*(None if x is None else row if x.shape[0] > 1 else one for x in rows)),
    )


def _bias(
    modifiers: ScoreModifiers, N: int, K: int
) -> tuple[Callable[..., jax.Array] | None, dict[str, jax.Array]]:
    """A position bias on this device's heads, and the arrays that it is bound to.

    Only what `functools.partial` binds by name has a gradient; anything else that a
    bias closes over must be constant.
    """
    if modifiers.bias is None:
        return None, {}
    n, function = axis_size(HEADS), functools.partial(modifiers.bias)
    arrays = {
        name: x
        for name, x in function.keywords.items()
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    }

    def bias(constants, q_positions_BT, k_positions_BS):
        all_BNTS = function(q_positions_BT, k_positions_BS, **constants)
        start = jax.lax.axis_index(HEADS) * (N // n)
        here_BNTS = jax.lax.dynamic_slice_in_dim(all_BNTS, start, N // n, 1)
        return here_BNTS.reshape(-1, K // n, N // K, *here_BNTS.shape[2:])

    return bias, arrays


def _sides(
    ring: Ring, weights: Weights, rows: Rows
) -> tuple[Queries, Keys, tuple[int, ...]]:
    """This device's queries, as groups of key heads, and keys; (K, G)."""
    B, T, N, H = weights.q_BTNH.shape
    K = weights.k_BSKH.shape[2]
    q_BTKGH = weights.q_BTNH.reshape(B, T, K, N // K, H)
    queries = Queries(q_BTKGH, rows.q_positions_BT, rows.q_segments_BT)
    keys = Keys(
        weights.k_BSKH,
        weights.v_BSKW,
        rows.k_positions_BS,
        rows.k_segments_BS,
        rows.k_prefix_BS,
    )
    return ring.fold(queries), ring.fold(keys), (K, N // K)


def _forward(
    ring: Ring, scoring: Scoring, weights: Weights, rows: Rows
) -> tuple[jax.Array, jax.Array]:
    """On one device: the result [B, T, N, W], and log(sum(exp)) in the ring's order."""
    queries, keys, heads = _sides(ring, weights, rows)
    i = jax.lax.axis_index(AXIS)

    def visit(so_far: list[Softmax], keys: Keys, step: Any) -> list[Softmax]:
        j = (i - step) % ring.n
        so_far = list(so_far)
        for a, b in ring.pairs():
            see = functools.partial(
                tiles.attend,
                scoring,
                weights.constants,
                ring.part(queries, a),
                ring.part(keys, b),
            )
            so_far[a] = _where(ring.meets(i, j, (a, b)), see, lambda x: x, so_far[a])
        return so_far

    def step(carry, number):
        so_far, keys = carry
        coming = ring.send(keys)  # while these are looked at
        return (visit(so_far, keys, number), coming), None

    size = weights.v_BSKW.shape[-1]
    so_far = [tiles.start(ring.part(queries, a), size) for a in range(ring.chunks)]
    last = ring.steps - 1
    (so_far, keys), _ = jax.lax.scan(step, (so_far, keys), jnp.arange(last))
    sinks_KG = None if weights.sinks_N is None else weights.sinks_N.reshape(heads)
    parts = [tiles.finish(x, sinks_KG) for x in visit(so_far, keys, last)]
    o_BTKGW = jnp.concatenate([o for o, _ in parts], axis=1)
    lse_BKGT = jnp.concatenate([lse for _, lse in parts], axis=-1)
    o_BTNW = o_BTKGW.reshape(*weights.q_BTNH.shape[:3], size)
    return ring.unfold(o_BTNW.astype(weights.v_BSKW.dtype)), lse_BKGT


def _backward(
    ring: Ring,
    scoring: Scoring,
    weights: Weights,
    rows: Rows,
    o_BTNW: jax.Array,
    lse_BKGT: jax.Array,
    do_BTNW: jax.Array,
) -> Weights:
    """On one device: the gradients of its own operands."""
    queries, keys, heads = _sides(ring, weights, rows)
    i = jax.lax.axis_index(AXIS)
    shape = (*do_BTNW.shape[:2], *heads, do_BTNW.shape[-1])
    o32, do32 = (x.astype(jnp.float32).reshape(shape) for x in (o_BTNW, do_BTNW))
    delta_BTKG, do_BTKGW = ring.fold(
        (jnp.sum(o32 * do32, axis=-1), do_BTNW.reshape(shape))
    )
    delta_BKGT = jnp.moveaxis(delta_BTKG, 1, -1)

    def see(a: int, b: int, keys: Keys, *sums):
        lse, delta = (jnp.split(x, ring.chunks, -1)[a] for x in (lse_BKGT, delta_BKGT))
        statistics = Backward(lse, delta, ring.part(do_BTKGW, a))
        parts = ring.part(queries, a), ring.part(keys, b)
        more = tiles.attend_back(scoring, weights.constants, *parts, statistics)
        return jax.tree.map(jnp.add, sums, more)

    def visit(sums, keys: Keys, dkeys, step):
        j = (i - step) % ring.n
        dq, dconstants = sums
        dq, dk, dv = list(dq), *(jnp.split(x, ring.chunks, 1) for x in dkeys)
        for a, b in ring.pairs():
            dq[a], dk[b], dv[b], dconstants = _where(
                ring.meets(i, j, (a, b)),
                functools.partial(see, a, b, keys),
                lambda *sums: sums,
                *(dq[a], dk[b], dv[b], dconstants),
            )
        dkeys = tuple(jnp.concatenate(x, axis=1) for x in (dk, dv))
        return (dq, dconstants), dkeys

    def step(carry, number):
        sums, keys, dkeys = carry
        coming = ring.send(keys)
        sums, dkeys = visit(sums, keys, dkeys, number)
        return (sums, coming, ring.send(dkeys)), None

    dq = [_zeros(ring.part(queries.q_BTKGH, a)) for a in range(ring.chunks)]
    sums = dq, jax.tree.map(jnp.zeros_like, weights.constants)
    dkeys = _zeros(keys.k_BSKH), _zeros(keys.v_BSKW)
    last = ring.steps - 1
    (sums, keys, dkeys), _ = jax.lax.scan(step, (sums, keys, dkeys), jnp.arange(last))
    (dq, dconstants), dkeys = visit(sums, keys, dkeys, last)
    dk_BSKH, dv_BSKW = ring.unfold(ring.send(dkeys, by=-last))
    dq_BTNH = ring.unfold(jnp.concatenate(dq, axis=1)).reshape(weights.q_BTNH.shape)
    dsinks_N = _sinks_back(weights.sinks_N, lse_BKGT, delta_BKGT)
    dconstants = jax.lax.psum(dconstants, (*BATCH_AXES, AXIS, HEADS))
    gradients = Weights(dq_BTNH, dk_BSKH, dv_BSKW, dsinks_N, dconstants)
    return jax.tree.map(lambda d, x: d.astype(x.dtype), gradients, weights)


def _zeros(x: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape, jnp.float32)


def _sinks_back(sinks_N: Any, lse_BKGT: jax.Array, delta_BKGT: jax.Array) -> Any:
    """d(sinks) [N] of this device's heads: they take probability and give no value."""
    if sinks_N is None:
        return None
    sinks_KG1 = sinks_N.astype(jnp.float32).reshape(*lse_BKGT.shape[1:3], 1)
    dsinks_KG = -jnp.sum(jnp.exp(sinks_KG1 - lse_BKGT) * delta_BKGT, axis=(0, 3))
    return jax.lax.psum(dsinks_KG.reshape(-1), (*BATCH_AXES, AXIS))


def _where(meets: Any, yes: Callable, no: Callable, *operands: Any) -> Any:
    """`jax.lax.cond`, unless `meets` is True while tracing."""
    return yes(*operands) if meets is True else jax.lax.cond(meets, yes, no, *operands)
