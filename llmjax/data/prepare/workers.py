"""Jobs in worker processes; each leaves its result on disk.

A worker is `python -m llmjax.data.prepare.workers`: unlike multiprocessing's it doesn't
run the caller's script again, so that it works in notebooks and scripts alike, imports
no jax, and ends with the process that started it, killed or not.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

_WORTHWHILE = 4e6  # bytes: below, starting processes takes longer than the work


@runtime_checkable
class Job(Protocol):
    """A part of the work; a small frozen value that can be pickled."""

    @property
    def size(self) -> int:
        """Bytes, roughly, for the progress bar."""

    def done(self) -> bool:
        """Whether the whole result is on disk."""


def run(
    function: Callable[[Any], None],
    jobs: Sequence[Any],
    name: str,
    workers: int | None = None,
) -> None:
    """Calls `function(job)` for each `Job` that is not done.

    Args:
      function: of a module, or a `functools.partial` of one; can be pickled.
      jobs: in the order in which they begin.
      name: beside the progress bar, which counts MB/s.
      workers: processes; None: one per core. Little work is done in this process.
    """
    todo = [job for job in jobs if not job.done()]
    missing = sum(job.size for job in todo)
    total = sum(job.size for job in jobs)
    count = min(workers or os.cpu_count() or 1, len(todo))
    bar = tqdm(
        desc=name, total=total, initial=total - missing, unit="B", unit_scale=True
    )
    with bar, contextlib.ExitStack() as stack:
        if count <= 1 or missing < _WORTHWHILE:
            for job in todo:
                function(job)
                bar.update(job.size)
        else:
            pool = stack.enter_context(_pool(count))
            for size in pool(function, todo):
                bar.update(size)


@contextlib.contextmanager
def _pool(count: int) -> Iterator[Callable[..., Iterator[int]]]:
    """`map` over worker processes, which end with the context."""
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    workers = [_Worker() for _ in range(count)]
    for worker in workers:
        idle.put(worker)

    def one(function: Callable[[Any], None], job: Any) -> int:
        worker = idle.get()
        try:
            worker.call(function, job)
        finally:
            idle.put(worker)
        return job.size

    def run(function: Callable[[Any], None], jobs: Sequence[Any]) -> Iterator[int]:
        waiting: set[Future[int]] = set()
        for job in jobs:
            waiting.add(threads.submit(one, function, job))
            if len(waiting) >= 2 * count:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in waiting)

    with ThreadPoolExecutor(count) as threads:
        try:
            yield run
        finally:
            for worker in workers:
                worker.close()
            threads.shutdown(cancel_futures=True)


class _Worker:
    """A process that answers one call at a time."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            "TOKENIZERS_PARALLELISM": "false",  # the processes are the parallelism
            "JAX_PLATFORMS": "cpu",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llmjax.data.prepare.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def call(self, function: Callable[[Any], None], job: Any) -> None:
        """Calls `function(job)` in the process and raises its exception here."""
        assert self._process.stdin and self._process.stdout
        try:
            pickle.dump((function, job), self._process.stdin)
            self._process.stdin.flush()
            error = pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            raise RuntimeError(
                f"a worker process ended with code {code} (-9: out of memory?); what "
                "is done stays: run it again, with a smaller data.prepare.workers"
            ) from None
        if error is not None:
            raise error

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    """Answers calls until the caller's process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printing must not reach the answers
    while True:
        try:
            function, job = pickle.load(sys.stdin.buffer)
        except (EOFError, pickle.UnpicklingError):
            return
        except Exception as e:  # a module that is not here
            error: Exception | None = e
        else:
            error = _error_of(function, job)
        try:
            answer = pickle.dumps(error)
            pickle.loads(answer)
        except Exception:  # not every exception can be pickled
            answer = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        try:
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:
            return


def _error_of(function: Callable[[Any], None], job: Any) -> Exception | None:
    try:
        function(job)
    except Exception as e:
        return e
    return None


if __name__ == "__main__":
    _serve()
