"""Runs a piece of code as two real processes of four devices each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONNECT = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
"""


def run(code: str, *args: object) -> None:
    """`code` finds its arguments from `sys.argv[3]` on; it must exit with 0.

    `RANK` in an argument is replaced by the process's number.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    running = []
    for rank in ("0", "1"):
        own = [str(a).replace("RANK", rank) for a in args]
        command = [sys.executable, "-c", CONNECT + code, str(port), rank, *own]
        running.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        )
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()[-2000:]
