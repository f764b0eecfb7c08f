"""Processes of one run through jax: joining, and sharing out a batch's rows."""

import functools
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.parallel.axes import BATCH_AXES
from llmjax.parallel.mesh import batch_shards


def join(
    coordinator: str | None,
    process_id: int | None,
    process_count: int | None,
    heartbeat_timeout_seconds: int,
) -> None:
    """Joins the run's other processes, before jax computes anything.

    Args:
      coordinator: host:port of process 0; None: as a TPU pod, Slurm or Open MPI says.
      heartbeat_timeout_seconds: a process silent for so long is lost, and jax ends
        the others.

    Raises:
      ValueError: a process_id out of range, or no processes detected.
    """
    last = None if process_count is None else process_count - 1
    if last is not None and process_id not in (None, *range(last + 1)):
        raise ValueError(
            f"--process_id={process_id} with --process_count={process_count}; "
            f"accepted: 0 to {last}"
        )
    try:
        jax.distributed.initialize(
            coordinator,
            process_count,
            process_id,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
        )
    except ValueError as e:
        if coordinator is not None:
            raise
        raise ValueError(
            "--distributed finds no processes to join: this is no TPU pod, and Slurm "
            "or Open MPI didn't start it; give --coordinator=HOST:PORT, --process_id "
            "and --process_count"
        ) from e
    # while all are here: Gloo waits for 30 s only, and compiling may keep one longer
    multihost_utils.sync_global_devices("joined")


def is_leader() -> bool:
    """Whether this process writes for all of them."""
    return jax.process_index() == 0


@functools.cache
def share(mesh: Mesh) -> tuple[int, int]:
    """(k, n): this process's devices hold the k-th of n equal shares of a batch's rows.

    Processes have the same share where a mesh axis other than the batch's goes over
    them; (0, 1), all rows, where shares would overlap in part.
    """
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    held: dict[int, set[int]] = defaultdict(set)
    places: Any = sharding.devices_indices_map((batch_shards(mesh),))
    for device, (place,) in places.items():
        held[device.process_index].add(place.start or 0)
    shares = sorted({tuple(sorted(own)) for own in held.values()})
    rows = [row for own in shares for row in own]
    if len(rows) > len(set(rows)) or len({len(own) for own in shares}) > 1:
        return 0, 1
    return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def spread(value: Any, sharding: NamedSharding) -> jax.Array:
    """`value`, whole on every process or sharded over all, laid out as `sharding`."""
    sharded_over_all = isinstance(value, jax.Array) and not value.is_fully_addressable
    if jax.process_count() == 1 or sharded_over_all:
        return jax.device_put(value, sharding)
    value = np.asarray(value)  # there may be no transfer between these devices
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
