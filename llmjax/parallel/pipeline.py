"""Pipeline parallelism: a circular schedule of stages over the mesh axis `pipeline`.

Layers are cut into P * R stages, R (rounds) on each of P devices: device s holds stages
s, P + s, 2 P + s… A batch is cut into M microbatches, which pass the devices R times
around a ring (GPipe, Huang et al. 2018, arXiv:1811.06965, is R = 1; several stages per
device are Narayanan et al. 2021, arXiv:2104.04473, section 2.2). Backward is the
transposed program: all microbatches forward, then all backward, so what the forward
keeps is kept for all of them; with `recompute` that is the input of each stage.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.parallel.axes import BATCH_AXES

AXIS = "pipeline"
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
        microbatch) -> (x, sums), of one microbatch and one stage's layers.
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
        own = _by_round(weights, rank[0], plan)
        x, sums = _local(stage, own, shared, _take((x, beside), 0), rank[0], plan)
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

    `flow` is what came round the ring; `queue` holds M / P microbatches to enter or
    that left. Group g's heads enter one by one while the queue's slot g is turned
    around, and what leaves then, of group g - 1, takes their places.
    """
    P, R, slots = plan.stages, plan.rounds, plan.microbatches // plan.stages
    if plan.recompute:
        stage = jax.checkpoint(stage, prevent_cse=False)  # a loop's body: none to see

    def head(queue, time):
        """The queue's slot, its microbatch, and whether that enters here and now."""
        slot = time // (P * R) % slots
        return slot, _take(queue, slot), (rank == 0) & (time % (P * R) < P)

    def turned(queue, time, x):
        slot, (entered, beside), enters = head(queue, time)
        back = _shift((jnp.where(enters, x, entered), beside), -1, P)
        return _put(queue, back, slot)

    def tick(carry, time):
        flow, queue, sums = carry
        _, fresh, enters = head(queue, time)
        x, beside = jax.tree.map(lambda a, b: jnp.where(enters, a, b), fresh, flow)
        queue = turned(queue, time, flow[0])
        busy, turn, microbatch = plan.work(rank, time)
        own = _take(weights, turn if R > 1 else 0)
        x, new = stage(own, shared, _on_rows(x), beside, turn * P + rank, microbatch)
        new = jax.tree.map(
            lambda s, a: s.at[turn].add(jnp.where(busy, a, 0)), sums, new
        )
        return (_shift((_on_rows(x), beside), 1, P), queue, new), None

    first = _take(rows, 0)
    _, new = jax.eval_shape(stage, _take(weights, 0), shared, *first, rank, rank)
    zeros = jax.tree.map(lambda a: jnp.zeros((R, *a.shape), a.dtype), new)
    times = jnp.arange(plan.times)
    (flow, queue, sums), _ = jax.lax.scan(tick, (first, rows, zeros), times)
    x, _ = turned(queue, plan.times, flow[0])
    return jnp.roll(x, -1, axis=0), sums  # the last group left into the first slot


def _take(tree: Any, index: Any) -> Any:
    return jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), tree
    )


def _put(tree: Any, values: Any, index: Any) -> Any:
    return jax.tree.map(
        lambda a, v: jax.lax.dynamic_update_index_in_dim(a, v, index, 0), tree, values
    )


def _shift(tree: Any, by: int, size: int) -> Any:
    """`tree` sent from each device to the one `by` further around the ring."""
    return _send(tree, [(i, (i + by) % size) for i in range(size)])


def _send(tree: Any, pairs: list[tuple[int, int]]) -> Any:
    return jax.tree.map(lambda a: jax.lax.ppermute(a, AXIS, pairs), tree)


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


def _by_round(weights: Any, rank: jax.Array, plan: CircularSchedule) -> Any:
    """A device's leaves [R * layers, ...] -> [R, layers, ...] of stages it computes.

    Stored in the order of the layers, device d has stages R d to R d + R - 1. Each of
    R permutations brings every device one of the stages that it computes.
    """
    P, R = plan.stages, plan.rounds
    cut = jax.tree.map(lambda a: a.reshape(R, -1, *a.shape[1:]), weights)
    if R == 1:
        return cut
    moved = jax.tree.map(jnp.zeros_like, cut)
    for stages in moves(P, R):  # stages[d] goes to device d
        sent = {stage // R: stage % R for stage in stages}
        source = jnp.array([sent[d] for d in range(P)])[rank]
        target = jnp.array([stage // P for stage in stages])[rank]
        pairs = [(stage // R, d) for d, stage in enumerate(stages)]
        moved = _put(moved, _send(_take(cut, source), pairs), target)
    return moved


def moves(P: int, R: int) -> list[list[int]]:
    """R permutations that move stages from where they are stored to where they compute.

    Each is a list of P stages, one for each device d, no two of them stored on one
    device (stage s is stored on s // R, device d computes d, P + d…). Perfect matchings
    exist, as every device stores R stages and computes R (König 1916).
    """
    left = [[r * P + d for r in range(R)] for d in range(P)]
    permutations = []
    for _ in range(R):
        chosen = _matching(left, R)
        for stages, stage in zip(left, chosen, strict=True):
            stages.remove(stage)
        permutations.append(chosen)
    return permutations


def _matching(stages: list[list[int]], R: int) -> list[int]:
    """One of each device's `stages`, no two stored on one device (Kuhn 1955)."""
    receiver: dict[int, int] = {}  # device that stores a chosen stage -> d
    chosen: dict[int, int] = {}

    def place(d: int, tried: set[int]) -> bool:
        for stage in stages[d]:
            home = stage // R
            if home not in tried:
                tried.add(home)
                if home not in receiver or place(receiver[home], tried):
                    receiver[home], chosen[d] = d, stage
                    return True
        return False

    for d in range(len(stages)):
        assert place(d, set())
    return [chosen[d] for d in range(len(stages))]
