"""A ring of devices: the mesh axis `pipeline`, and what is sent around it."""

from typing import Any

import jax
import jax.numpy as jnp

AXIS = "pipeline"


def take(tree: Any, index: Any) -> Any:
    """The leaves [n, ...] of a tree at an index: [...]."""
    return jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), tree
    )


def put(tree: Any, values: Any, index: Any) -> Any:
    """`tree` with `values` [...] at an index of its leaves [n, ...]."""
    return jax.tree.map(
        lambda a, v: jax.lax.dynamic_update_index_in_dim(a, v, index, 0), tree, values
    )


def shift(tree: Any, by: int, size: int) -> Any:
    """`tree` sent from each device to the one `by` further around the ring."""
    return send(tree, [(i, (i + by) % size) for i in range(size)])


def send(tree: Any, pairs: list[tuple[int, int]]) -> Any:
    """`tree` sent from the first device of each pair to the second."""
    return jax.tree.map(lambda a: jax.lax.ppermute(a, AXIS, pairs), tree)


def by_round(weights: Any, rank: jax.Array, P: int, R: int) -> Any:
    """A device's leaves [R * layers, ...] -> [R, layers, ...] of stages it computes.

    Stored in the order of the layers, device d has stages R d to R d + R - 1. Each of
    R permutations brings every device one of the stages that it computes.
    """
    cut = jax.tree.map(lambda a: a.reshape(R, -1, *a.shape[1:]), weights)
    if R == 1:
        return cut
    moved = jax.tree.map(jnp.zeros_like, cut)
    for stages in moves(P, R):  # stages[d] goes to device d
        sent = {stage // R: stage % R for stage in stages}
        source = jnp.array([sent[d] for d in range(P)])[rank]
        target = jnp.array([stage // P for stage in stages])[rank]
        pairs = [(stage // R, d) for d, stage in enumerate(stages)]
        moved = put(moved, send(take(cut, source), pairs), target)
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
