"""Answers that take long, and clients that don't wait for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class Events(StreamingResponse):
    """Server-sent events.

    A client that reads slowly stops the lines, which wait in the request's own queue,
    `max_length` of them at most; one that is gone ends the request.
    """

    def __init__(self, lines: AsyncIterator[str], close: Callable[[], None]):
        """
        Args:
          lines: as they are sent.
          close: called when all is sent, or nobody reads.
        """
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def or_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T | None:
    """What a coroutine returns; None: the client went first, and it is cancelled."""
    working = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
