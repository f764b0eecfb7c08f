"""One of several processes: the flags that say so, and how it joins and leaves them."""

import os
import sys
import traceback

from absl import flags

from llmjax.config import TrainConfig

BARRIER = "experimental_orbax_use_distributed_barrier"  # one that has a time-out

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, of a run of several processes."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, from 0.")
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "How many there are.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes that a TPU pod, Slurm or Open MPI tells."
)


def wanted() -> bool:
    """Whether the flags make this one of several processes.

    Raises:
      ValueError: a flag that is missing, or one too many.
    """
    given = {f.name: f.value for f in (COORDINATOR, PROCESS_ID, PROCESS_COUNT)}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if DISTRIBUTED.value and len(missing) < len(given):
        raise ValueError(
            "--distributed detects what --coordinator, --process_id and "
            "--process_count say; leave it or them out"
        )
    if DISTRIBUTED.value or len(missing) == len(given):
        return DISTRIBUTED.value
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing; a process of several needs --coordinator, "
            "--process_id and --process_count, or only --distributed"
        )
    return True


def join(train: TrainConfig) -> None:
    """Joins the others, before anything of jax is computed."""
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
    """This process's number; 0 of one that is alone, for which jax isn't started."""
    return sys.modules["jax"].process_index() if _joined() else 0


def leave(error: BaseException) -> None:
    """Ends one of several processes at once, if `error` is the reason.

    jax's own exit waits for the others, which may be waiting for this one.
    """
    code = error.code if isinstance(error, SystemExit) else 1
    if not _joined() or code in (None, 0):
        return
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _joined() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
