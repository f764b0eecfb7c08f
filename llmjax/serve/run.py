"""The process: a socket, signals, and an end that cuts nobody off."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llmjax.serve.worker import Worker

_READY = 0.05  # seconds between two looks


class Draining(uvicorn.Server):
    """A server that SIGTERM or SIGINT ends when those that it has are answered.

    New requests are answered by 503 meanwhile; a second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, worker: Worker, drain_seconds: float):
        """
        Args:
          config: of uvicorn.
          worker: whose requests are waited for.
          drain_seconds: at most.
        """
        super().__init__(config)
        self._worker, self._drain_seconds = worker, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def serve(self, sockets: list | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Of uvicorn: called by the signal; the process ends with 0."""
        if self._worker.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._worker.draining = True
        self._loop.call_soon_threadsafe(self.begin_drain)

    def begin_drain(self) -> None:
        """Waits for what is open, in the event loop."""
        self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        await self._worker.drained(self._drain_seconds)
        self.should_exit = True


def run(
    app: FastAPI,
    worker: Worker,
    *,
    host: str,
    port: int,
    drain_seconds: float = 30.0,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serves until a signal.

    Args:
      app: of `make_app`.
      worker: that the app has.
      host, port: to listen on; port 0: any that is free.
      drain_seconds: that open requests get after SIGTERM.
      on_ready: called with the address once requests are taken.

    Raises:
      ValueError: the engine can't be made, or the port is taken.
    """
    listening = _listen(host, port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    name = "127.0.0.1" if host == "0.0.0.0" else host
    name = f"[{name}]" if ":" in name else name
    address = f"http://{name}:{listening.getsockname()[1]}"
    server = Draining(config, worker, drain_seconds)

    async def main() -> None:
        async def tell() -> None:
            while not worker.ready and worker.dead is None:
                await asyncio.sleep(_READY)
            if worker.dead is not None:
                server.should_exit = True
            else:
                on_ready(address)

        telling = asyncio.ensure_future(tell())
        try:
            await server.serve([listening])
        finally:
            telling.cancel()

    asyncio.run(main())
    if not worker.stop():
        # XLA can't be interrupted amid a compile, and crashes where Python ends first
        sys.stdout.flush()
        os._exit(0)
    if worker.dead is not None:
        raise ValueError(f"the engine can't be made: {worker.dead}")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as e:
        raise ValueError(
            f"{host}, port {port}, can't be listened on ({e.strerror}); give another "
            "port, or 0 for any that is free"
        ) from e


def log_to_stderr() -> None:
    """Writes a line of JSON for each request to standard error, and what fails."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("llmjax", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
