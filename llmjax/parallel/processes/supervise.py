"""Starts the processes of a run on this host, and ends all when one is lost.

    python -m llmjax.parallel.processes.supervise --processes=4 -- COMMAND

When a process ends badly, jax may abort the others or leave them waiting for it. So
whoever started them watches: it says which process ended, how, and after which step,
ends the others (SIGTERM, then SIGKILL after --timeout), and, with --restarts, starts
all again; the run goes on from its last checkpoint. SIGTERM and Ctrl-C go to every
process; they save and end. So they do where one of them has SIGTERM from elsewhere, and
nothing is started again.

Exit codes: 0 where all ended well; 2 for a mistake in the flags; 143 where SIGTERM made
a run end early; else that of the process that was lost, or 128 + the number of the
signal that killed it, as shells have.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STEP_FILE = "LLMJAX_STEP_FILE"
# The exit code of a run that SIGTERM ended early: 128 + the signal, as of one that it
# killed. A scheduler takes it for no success; what there is is saved.
STOPPED = 128 + signal.SIGTERM
SAVING = 600  # seconds that a run may take to save when it is told to end
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")


def report_step(step: int) -> None:
    """Writes for the supervisor, if there is one, that `step` is done."""
    path = os.environ.get(STEP_FILE)
    if path:
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(file, f"{step:20d}".encode(), 0)  # in one write
        os.close(file)


@dataclasses.dataclass(frozen=True)
class Command:
    """The command line of one process, its name in messages, and its log."""

    name: str
    args: tuple[str, ...]
    environment: Mapping[str, str]  # added to the supervisor's
    log: Path | None  # None: this terminal

    def __str__(self) -> str:
        assigned = [f"{k}={shlex.quote(v)}" for k, v in self.environment.items()]
        line = " ".join(["env", *assigned, shlex.join(self.args)])
        return line + (f" >{shlex.quote(str(self.log))} 2>&1" if self.log else "")


@dataclasses.dataclass(frozen=True)
class Lost:
    """A process that ended badly; a negative code is minus a signal, as Popen's."""

    name: str
    code: int
    step: int | None
    log: Path | None

    @property
    def exit_code(self) -> int:
        """The supervisor's."""
        return self.code if self.code > 0 else 128 - self.code

    def __str__(self) -> str:
        if self.code < 0:
            how = f"was killed by {signal.Signals(-self.code).name}"
        else:
            how = f"ended with code {self.code}"
        when = "before a step" if self.step is None else f"after step {self.step}"
        return f"{self.name} {how} {when}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the flags of the module's docstring; returns the exit code."""
    args = parse(argv)
    logs = Path(args.logs) if args.logs else None
    if not args.dry_run:
        logs = logs or Path(tempfile.mkdtemp(prefix="llmjax-logs-"))
        logs.mkdir(parents=True, exist_ok=True)
    planned = commands(args, logs or Path("LOGS"))
    if args.dry_run:
        print(*planned, sep="\n")
        return 0
    if len(planned) > 1:
        say(f"the output of all processes but the first is in {logs}")
    left = args.restarts
    while True:
        run = Run(planned, args.timeout)
        lost = run.wait()
        if lost is None:
            return 0
        final = lost.code in (2, STOPPED)  # a mistake stays one; it was told to end
        if final or run.signals or not left:
            return lost.exit_code
        left -= 1
        say(f"starting all again from the last checkpoint; {left} restarts left")
        planned = commands(args, logs or Path("LOGS"))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; what can't be used is said, with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="supervise",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--processes", type=_number(1, 4096), default=1, help="on this host")
    add("--devices", type=_number(1, 4096), help="of a CPU, that each process has")
    add("--gpus", type=_number(1, 4096), help="that each process has; default: all")
    add("--hosts", action="store_true", help="one of the processes on several hosts")
    add(
        "--restarts", type=_number(0, 10**6), default=0, help="after a loss; default: 0"
    )
    add("--timeout", type=_number(1, 10**6), default=10, help="seconds until SIGKILL")
    add("--logs", help="folder of the processes' output; default: a temporary one")
    add("--dry_run", action="store_true", help="print the commands only")
    add("command", nargs="*", help="after --: python -m experiments.pretrain ...")
    args = parser.parse_args(argv)
    if not args.command:
        parser.error("the command is missing: -- python -m experiments.pretrain ...")
    if args.hosts and args.processes > 1:
        parser.error("--hosts starts one process on this host; leave --processes out")
    if args.gpus and args.devices:
        parser.error("--devices is of CPUs and --gpus of GPUs; give one of them")
    return args


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        decimal = text.isascii() and text.isdecimal() and len(text) < 20
        if not decimal or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number from {least} to {most}"
            )
        return int(text)

    return number


def commands(args: argparse.Namespace, logs: Path) -> list[Command]:
    """One command per process of this host, with a free port as coordinator."""
    if args.hosts:
        rank = next((os.environ[n] for n in RANKS if n in os.environ), None)
        name = f"the process on {socket.gethostname()}" + (f" ({rank})" if rank else "")
        step = {STEP_FILE: str(logs / "0.step")}
        return [Command(name, (*args.command, "--distributed"), step, None)]
    count = args.processes
    port = "PORT" if args.dry_run else _free_port()
    out = []
    for k in range(count):
        environment = {STEP_FILE: str(logs / f"{k}.step")}
        if args.devices:
            flag = f"--xla_force_host_platform_device_count={args.devices}"
            inherited = os.environ.get("XLA_FLAGS", "")
            environment["JAX_PLATFORMS"] = "cpu"
            environment["XLA_FLAGS"] = f"{inherited} {flag}".strip()
        if args.gpus:
            own = range(k * args.gpus, (k + 1) * args.gpus)
            environment["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, own))
        joined = (f"--coordinator=localhost:{port}", f"--process_id={k}")
        more = (*joined, f"--process_count={count}") if count > 1 else ()
        log = logs / f"{k}.log" if k else None
        name = f"process {k} of {count}"
        out.append(Command(name, (*args.command, *more), environment, log))
    return out


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Run:
    """The processes of one start, all of which are over when `wait` returns."""

    def __init__(self, planned: Sequence[Command], timeout: int):
        self.planned, self.timeout = planned, timeout
        self.signals: list[int] = []  # those that the supervisor received
        self.processes: list[subprocess.Popen] = []

    def wait(self) -> Lost | None:
        """Waits for all, and returns the process that was lost first, if one was."""
        before = {
            s: signal.signal(s, lambda number, _: self.signals.append(number))
            for s in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            for command in self.planned:
                self.processes.append(_start(command))
            if len(self.processes) > 1:
                pids = ", ".join(str(p.pid) for p in self.processes)
                say(f"{len(self.processes)} processes: {pids}")
            return self._watch()
        finally:
            self._signal(signal.SIGKILL)  # and what the processes may have started
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self) -> Lost | None:
        deadline = None
        while deadline is None or time.monotonic() < deadline:
            codes = [p.poll() for p in self.processes]
            lost = any(code not in (None, 0, STOPPED) for code in codes)
            if lost and not self.signals:
                return self._end_after_loss()
            if None not in codes:
                return self._first_lost()
            if (self.signals or STOPPED in codes) and deadline is None:
                deadline = time.monotonic() + SAVING
                self._signal(signal.SIGTERM)
            elif len(self.signals) > 1:
                break  # asked again: at once
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        return self._first_lost()

    def _end_after_loss(self) -> Lost | None:
        lost = self._first_lost()
        say(str(lost))
        if lost and lost.log:
            lines = lost.log.read_text(errors="replace").splitlines()[-20:]
            say(f"the end of {lost.log}:\n" + "\n".join(f"  {line}" for line in lines))
        others = [p for p in self.processes if p.poll() is None]
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline and any(p.poll() is None for p in others):
            time.sleep(0.05)
        killed = sum(p.poll() is None for p in others)
        self._signal(signal.SIGKILL)
        for process in others:
            process.wait()
        if len(self.processes) > 1:
            say(f"the other {len(self.processes) - 1} have ended; {killed} by SIGKILL")
        return lost

    def _first_lost(self) -> Lost | None:
        """The cause among processes that ended, never one that jax aborted."""
        ended = [(p.wait(), c) for p, c in self._over()]
        bad = [(code, command) for code, command in ended if code]
        if not bad:
            return None
        code, command = min(bad, key=lambda pair: _cause_order(pair[0]))
        return Lost(command.name, code, _step(command), command.log)

    def _over(self) -> list[tuple[subprocess.Popen, Command]]:
        pairs = zip(self.processes, self.planned, strict=False)
        return [(p, c) for p, c in pairs if p.poll() is not None]

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def _start(command: Command) -> subprocess.Popen:
    Path(command.environment[STEP_FILE]).unlink(missing_ok=True)
    environment = os.environ | command.environment
    if command.log is None:
        return subprocess.Popen(command.args, env=environment, start_new_session=True)
    with command.log.open("a") as log:
        return subprocess.Popen(
            command.args,
            env=environment,
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _cause_order(code: int) -> int:
    """Sorts exit codes seen at once: a signal from outside, an error, an abort."""
    return 2 if code == -signal.SIGABRT else 0 if code < 0 else 1


def _step(command: Command) -> int | None:
    path = Path(command.environment[STEP_FILE])
    text = path.read_text() if path.exists() else ""
    return int(text) if text.strip() else None


def say(text: str) -> None:
    """A line of the supervisor's own."""
    print(f"supervise: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
