"""The flags by which a process joins a run of several, and how it leaves."""

import os
import sys
import traceback

from absl import flags

from llmjax.config import TrainConfig
from llmjax.parallel.processes.supervise import STOPPED

BARRIER = "experimental_orbax_use_distributed_barrier"  # it has a time-out

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, of a run of several processes."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, from 0.")
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "How many there are.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes that a TPU pod, Slurm or Open MPI names."
)


def requested() -> bool:
    """Whether the flags make this one of several processes.

    Raises:
      ValueError: a flag that is missing, or one too many.
    """
    values = {f.name: f.value for f in (COORDINATOR, PROCESS_ID, PROCESS_COUNT)}
    missing = [f"--{name}" for name, value in values.items() if value is None]
    if DISTRIBUTED.value and len(missing) < len(values):
        raise ValueError(
            "--distributed detects what --coordinator, --process_id and "
            "--process_count say; leave it or them out"
        )
    if DISTRIBUTED.value or len(missing) == len(values):
        return DISTRIBUTED.value
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing; a process of several needs --coordinator, "
            "--process_id and --process_count, or only --distributed"
        )
    return True


def join(train: TrainConfig) -> None:
    """Joins the other processes as the flags say, before jax computes anything."""
    # imports jax, which not every main needs
    from llmjax.parallel.processes import distributed

    if BARRIER in flags.FLAGS:
        flags.FLAGS[BARRIER].value = True
    distributed.join(
        COORDINATOR.value,
        PROCESS_ID.value,
        PROCESS_COUNT.value,
        train.heartbeat_timeout_seconds,
    )


def rank() -> int:
    """This process's number; 0, without starting jax, where it is alone."""
    return sys.modules["jax"].process_index() if _joined() else 0


def leave(error: BaseException) -> None:
    """Ends this process at once if it is one of several and `error` is a failure.

    jax's own exit waits for the others, which may wait for this one. After SIGTERM
    all have saved, and end together.
    """
    code = error.code if isinstance(error, SystemExit) else 1
    if not _joined() or code in (None, 0, STOPPED):
        return
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _joined() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
