"""Pipeline parallelism: a circular schedule of stages over the mesh axis `pipeline`.

Layers are cut into P * R stages, R (rounds) on each of P devices: device s holds stages
s, P + s, 2 P + s… A batch is cut into M microbatches, which pass the devices R times
around a ring (GPipe, Huang et al. 2018, arXiv:1811.06965, is R = 1; several stages per
device are Narayanan et al. 2021, arXiv:2104.04473, section 2.2). Backward is the
transposed program: all microbatches forward, then all backward, so what the forward
keeps is kept for all of them; with `recompute` that is the input of each stage.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.parallel.axes import BATCH_AXES
from llmjax.parallel.ring import AXIS, by_round, put, shift, take

ANY = PartitionSpec.UNCONSTRAINED


@dataclasses.dataclass(frozen=True)
class CircularSchedule:
    """The stage and microbatch that each device computes at each time.

    P microbatches pass all rounds before the next P begin, so what leaves the last
    device is what the first one needs next: nothing waits in a buffer.
    """

    stages: int  # P, devices along the axis
    microbatches: int  # M, a multiple of P
    rounds: int = 1  # R
    recompute: bool = False  # whether the backward pass computes each slot again

    @property
    def times(self) -> int:
        """Time steps until the last microbatch leaves the last stage."""
        return self.microbatches * self.rounds + self.stages - 1

    def work(self, device: Any, time: Any) -> tuple[Any, Any, Any]:
        """(busy, round, microbatch) of a time slot; if idle, the last two are in range.

        Takes ints, or arrays of them.
        """
        P, R, M = self.stages, self.rounds, self.microbatches
        since = time - device
        busy = (since >= 0) & (since < M * R)
        group, within = since // (P * R) % (M // P), since % (P * R)
        return busy, within // P, group * P + within % P


def bubble_share(stages: int, microbatches: int, rounds: int = 1) -> float:
    """Share of the devices' time that is idle: (P - 1) / (M R + P - 1)."""
    return (stages - 1) / CircularSchedule(stages, microbatches, rounds).times


def circular_schedule(layout: LayoutConfig, stages: int) -> CircularSchedule:
    """The layout's schedule on a mesh whose axis has this many stages.

    Raises:
      ValueError: microbatches that don't fill the stages evenly.
    """
    P = stages
    M = layout.pipeline.microbatches or P
    if M % P:
        raise ValueError(
            f"layout.pipeline.microbatches={M} is not a multiple of "
            f"layout.pipeline.stages={P}; make it {P * -(-M // P)}"
        )
    return CircularSchedule(P, M, layout.pipeline.rounds, layout.pipeline.recompute)


def mesh_stages() -> int:
    """Size of the axis in the entered mesh; 1 without a mesh."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(AXIS, 1)


def check(cfg: ModelConfig, layout: LayoutConfig, batch_size: int, mesh: Mesh) -> None:
    """Checks that layers and rows divide over the stages, before anything is traced.

    Args:
      batch_size: rows of one forward pass.

    Raises:
      ValueError: naming the fields and the remedy.
    """
    P = mesh.shape[AXIS]
    if P == 1:
        return
    plan = circular_schedule(layout, P)
    two = cfg.architecture == "encoder_decoder"
    for group in cfg.layers + (cfg.encoder_layers if two else ()):
        layers_per_stage(group.repeat, plan)
    _check_rows(batch_size, plan, math.prod(mesh.shape[a] for a in BATCH_AXES))


def layers_per_stage(repeat: int, plan: CircularSchedule) -> int:
    """Number of repeats of a group in each stage.

    Raises:
      ValueError: the stages don't divide them.
    """
    stages = plan.stages * plan.rounds
    if repeat % stages:
        raise ValueError(
            f"a group of {repeat} repeats (model.num_layers, or one of model.groups) "
            f"does not divide over layout.pipeline.stages={plan.stages} x "
            f"layout.pipeline.rounds={plan.rounds}; make it a multiple of {stages}, or "
            f"their product a divisor of {repeat}"
        )
    return repeat // stages


def _check_rows(rows: int, plan: CircularSchedule, shards: int) -> None:
    unit = shards * plan.microbatches
    if rows % unit:
        raise ValueError(
            f"a batch of {rows} rows (data.batch_size / layout.microbatches) does not "
            f"divide over {shards} devices (data x fsdp x expert) times "
            f"layout.pipeline.microbatches={plan.microbatches}; make it a multiple of "
            f"{unit}"
        )


Stage = Callable[[Any, Any, Any, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


def circulate(
    stage: Stage,
    weights: Any,
    shared: Any,
    x: jax.Array,
    beside: Any,
    plan: CircularSchedule,
) -> tuple[jax.Array, Any]:
    """Every row of `x` through all stages, in the order of the layers.

    Manual over the one axis: the others are laid out by the compiler as elsewhere.
    Rows are dealt out such that none leaves its devices of the other axes; each device
    of the pipeline feeds its share of the microbatches into the ring and gets back
    their results, so that what comes before and after (`act_B_L`) is shared out too.
    Each time moves one microbatch's x and `beside` to the next device, and one back.
    The weights of R rounds lie in the order of the layers and are moved to their
    devices once per call (and their gradients back): (1 - 1/P) of them.

    Args:
      stage: (weights, shared, x, beside, number of the stage, number of the
        microbatch) -> (x, sums), of one microbatch and one stage's layers, a scan.
      weights: tree of [L, ...], L layers over the axis, in their order.
      shared: tree of what all stages and microbatches have in common.
      x: [B, ...], what stages change.
      beside: tree of [B, ...], which travels along unchanged.
      plan: B is a multiple of its microbatches times the devices of the batch.

    Returns:
      [B, ...], and the sums over microbatches, [L, ...] of stages' [layers, ...].
    """
    mesh = jax.sharding.get_abstract_mesh()
    shards = math.prod(mesh.shape[a] for a in BATCH_AXES)
    _check_rows(x.shape[0], plan, shards)

    def local(rank, weights, shared, x, beside):
        own = by_round(weights, rank[0], plan.stages, plan.rounds)
        run = _recomputed if plan.recompute else _local
        rows = take((x, *_parted(beside)), 0)
        x, sums = run(stage, own, shared, rows, rank[0], plan)
        return x[None], jax.tree.map(lambda s: s[:, None], sums)

    rows = jax.tree.map(lambda a: _deal(a, plan, shards), (x, beside))
    ring = PartitionSpec(AXIS)
    x, sums = jax.shard_map(
        local,
        in_specs=(ring, ring, PartitionSpec(), ring, ring),
        out_specs=(ring, PartitionSpec(None, AXIS)),
        axis_names={AXIS},
        check_vma=False,  # layers hold constants and kernels without such types
    )(jnp.arange(plan.stages), weights, shared, *rows)
    sums = jax.tree.map(lambda s: s.reshape(-1, *s.shape[3:]), sums)
    return _gather(x, plan, shards), sums


def _local(stage, weights, shared, rows, rank, plan):
    """One device's share: weights [R, layers, ...], rows [M / P, rows, ...].

    `rows` are x, and the floats and the others of `beside`. Returns the x that leave
    the last stage, and the sums of this device's stages.
    """
    return _run(stage, weights, shared, rows, rank, plan, None)[:2]


def _run(stage, weights, shared, rows, rank, plan, kept):
    """`_local`, and the inputs of its stages [R * M, rows, ...] where `kept` has room.

    `flow` is what came round the ring; `queue` holds M / P microbatches to enter or
    that left. Group g's heads enter one by one while the queue's slot g is turned
    around, and what leaves then, of group g - 1, takes their places.
    """

    def tick(carry, time):
        flow, queue, sums, kept = carry
        here, queue = _enter(flow, queue, time, rank, plan)
        busy, turn, microbatch = plan.work(rank, time)
        kept = kept and _kept(kept, here, turn * plan.microbatches + microbatch, busy)
        own = take(weights, turn if plan.rounds > 1 else 0)
        x, *beside = here
        number = turn * plan.stages + rank
        x, new = stage(own, shared, _on_rows(x), _joined(*beside), number, microbatch)
        sums = jax.tree.map(
            lambda s, a: s.at[turn].add(jnp.where(busy, a, 0)), sums, new
        )
        flow = shift((_on_rows(x), *beside), 1, plan.stages)
        return (flow, queue, sums, kept), None

    x, *beside = first = take(rows, 0)
    own = take(weights, 0)
    _, new = jax.eval_shape(stage, own, shared, x, _joined(*beside), rank, rank)
    zeros = jax.tree.map(lambda a: jnp.zeros((plan.rounds, *a.shape), a.dtype), new)
    carry, _ = jax.lax.scan(tick, (first, rows, zeros, kept), jnp.arange(plan.times))
    flow, queue, sums, kept = carry
    _, (x, *_) = _enter(flow, queue, plan.times, rank, plan)
    x = jnp.roll(x, -1, axis=0)  # the last group left into the first slot
    return x, sums, kept


def _enter(flow, queue, time, rank, plan):
    """What a device computes at a time, and the queue after it; linear in both."""
    P, R, slots = plan.stages, plan.rounds, plan.microbatches // plan.stages
    slot = time // (P * R) % slots
    waiting = take(queue, slot)
    enters = (rank == 0) & (time % (P * R) < P)
    here = jax.tree.map(lambda a, b: jnp.where(enters, a, b), waiting, flow)
    turned = jnp.where(enters, flow[0], waiting[0]), *waiting[1:]
    return here, put(queue, shift(turned, -1, P), slot)


def _kept(kept, here, slot, busy):
    """`kept` with the input of a stage that a device is busy with."""
    old = take(kept, slot)
    return put(kept, jax.tree.map(lambda a, b: jnp.where(busy, a, b), here, old), slot)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def _recomputed(stage, weights, shared, rows, rank, plan):
    """`_local` that keeps of each stage and microbatch its input alone.

    Backward, the schedule is run in reverse, and each stage computed again. A loop that
    jax differentiates would keep an input for idle times too, and hold the gradients of
    a stage twice: of one microbatch, and their sum. Here layers add theirs to the sum.
    """
    return _local(stage, weights, shared, rows, rank, plan)


def _forward(stage, weights, shared, rows, rank, plan):
    def room(a):
        kept = jnp.zeros((plan.rounds * plan.microbatches, *a.shape[1:]), a.dtype)
        spec = PartitionSpec(None, BATCH_AXES, *[ANY] * (a.ndim - 2))
        return jax.lax.with_sharding_constraint(kept, spec)

    def plain(weights, shared, x, *rest):
        """The stage, whose own derivatives are resolved: jvp takes no custom_vjp."""
        return jax.vjp(lambda x: stage(weights, shared, x, *rest), x)[0]

    kept = jax.tree.map(room, rows)
    x, sums, kept = _run(plain, weights, shared, rows, rank, plan, kept)
    return (x, sums), (weights, shared, kept, rank)


def _backward(stage, plan, residuals, cotangents):
    weights, shared, kept, rank = residuals
    common, constants = _parted(shared)
    d_x, (d_sums, _) = cotangents[0], _parted(cotangents[1])  # counts have none
    one = plan.rounds == 1  # stage per device
    if one:
        weights = take(weights, 0)
    totals = jax.tree.map(lambda a: jax.new_ref(jnp.zeros_like(a)), weights)

    def moved(time, d_here, d_queue):
        enter = functools.partial(_enter, time=time, rank=rank, plan=plan)
        return jax.linear_transpose(enter, d_here, d_queue)((d_here, d_queue))

    def tick(carry, time):
        d_flow, d_queue, d_common = carry
        busy, turn, microbatch = plan.work(rank, time)
        x, beside, others = take(kept, turn * plan.microbatches + microbatch)
        own = weights if one else take(weights, turn)

        def computed(own, common, x, beside):
            number = turn * plan.stages + rank
            read, travels = _joined(common, constants), _joined(beside, others)
            x, sums = stage(own, read, _on_rows(x), travels, number, microbatch)
            return _on_rows(x), _parted(sums)[0]

        pull: Any = jax.vjp(computed, own, common, x, beside)[1]
        # gradients are added into references, and returned where an array is given
        pull = pull.with_refs(totals if one else own, common, x, beside)
        d_x, d_passed = shift(d_flow, -1, plan.stages)
        d_new = jax.tree.map(lambda d: jnp.where(busy, d[turn], 0), d_sums)
        d_own, d_read, d_x, d_beside = pull((d_x, d_new))
        if not one:
            jax.tree.map(lambda t, d: jax.ref.addupdate(t, turn, d), totals, d_own)
        d_common, d_beside = jax.tree.map(
            jnp.add, (d_common, d_passed), (d_read, d_beside)
        )
        return (*moved(time, (d_x, d_beside), d_queue), d_common), None

    d_here, d_common = jax.tree.map(jnp.zeros_like, (take(kept[:2], 0), common))
    d_beside = jax.tree.map(lambda a: jnp.zeros_like(a[: len(d_x)]), kept[1])
    carry = moved(plan.times, d_here, (jnp.roll(d_x, 1, axis=0), d_beside))
    carry, _ = jax.lax.scan(
        tick, (*carry, d_common), jnp.arange(plan.times), reverse=True
    )
    _, d_rows, d_common = carry
    d_weights = jax.tree.map(lambda t: t[...], totals)
    if one:
        d_weights = jax.tree.map(lambda d: d[None], d_weights)
    return d_weights, d_common, (*d_rows, None), None


_recomputed.defvjp(_forward, _backward)


def _parted(tree: Any) -> tuple[Any, Any]:
    """The floats of a tree and its other leaves, each with None for the other's."""
    leaves, structure = jax.tree.flatten(tree)
    floats = [a if jnp.issubdtype(a.dtype, jnp.inexact) else None for a in leaves]
    others = [a if f is None else None for a, f in zip(leaves, floats, strict=True)]
    return jax.tree.unflatten(structure, floats), jax.tree.unflatten(structure, others)


def _joined(floats: Any, others: Any) -> Any:
    """The tree of the two of `_parted`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, floats, others, is_leaf=lambda a: a is None
    )


def _on_rows(x: jax.Array, axes: tuple[str, ...] = BATCH_AXES) -> jax.Array:
    """[rows, ...] sharded over the batch axes, a constraint that loops drop."""
    spec = PartitionSpec(axes, *[ANY] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, spec)


def _deal(x: jax.Array, plan: CircularSchedule, shards: int) -> jax.Array:
    """[B, ...] -> [P, M / P, B / M, ...]: each shard's rows dealt evenly to stages."""
    P, M = plan.stages, plan.microbatches
    dealt = x.reshape(shards, P, M // P, -1, *x.shape[1:])
    dealt = jnp.moveaxis(dealt, 0, 2).reshape(P, M // P, -1, *x.shape[1:])
    spec = PartitionSpec(AXIS, None, BATCH_AXES, *[ANY] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(dealt, spec)


def _gather(x: jax.Array, plan: CircularSchedule, shards: int) -> jax.Array:
    """The inverse of `_deal`."""
    P, M = plan.stages, plan.microbatches
    rest = x.shape[3:]
    dealt = jnp.moveaxis(x.reshape(P, M // P, shards, -1, *rest), 2, 0)
    return _on_rows(dealt.reshape(-1, *rest), (*BATCH_AXES, AXIS))
