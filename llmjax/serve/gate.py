"""What every request passes: the key, the size of its body, the log, the metrics."""

import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmjax.serve.errors import RefusedError
from llmjax.serve.metrics import Metrics

FACTS = "llmjax"  # of a scope: what a route tells the log, never a text
log = logging.getLogger("llmjax.serve.requests")
_OPEN = ("/health", "/health/live", "/health/ready", "/metrics", "/")


class Gate:
    """An ASGI app around another."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        keys: Sequence[str],
        max_bytes: int,
        closing: Callable[[], bool],
    ):
        """
        Args:
          app: what it guards.
          metrics: counts the requests.
          keys: one of them is needed, but for health, metrics and the page; if there
            are any.
          max_bytes: of a body.
          closing: whether clients should take their next request elsewhere.
        """
        self._app, self._metrics, self._max_bytes = app, metrics, max_bytes
        self._keys = [key.encode() for key in keys]
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.monotonic(), 499  # as nginx: the client is gone
        facts = scope[FACTS] = {"id": uuid.uuid4().hex}

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(b"x-request-id", facts["id"].encode())]
                if self._closing():
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await refused.response()(scope, receive, sent)
            else:
                await self._app(scope, self._counted(receive), sent)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.monotonic() - began
            self._metrics.request(scope["path"], status, seconds)
            if scope["path"] not in _OPEN:
                self._log(scope, status, seconds, facts)

    def _refused(self, scope: Scope) -> RefusedError | None:
        headers = dict(scope["headers"])
        if self._keys and scope["path"] not in _OPEN:
            given = headers.get(b"authorization", b"")
            key = given[7:] if given[:7].lower() == b"bearer " else b""
            # all are compared: the time says nothing of which one is near
            if not any([hmac.compare_digest(key, known) for known in self._keys]):
                return RefusedError(
                    401,
                    "the API key is missing or wrong; send Authorization: Bearer KEY",
                    code="invalid_api_key",
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            return RefusedError(413, self._too_large)
        return None

    def _counted(self, receive: Receive) -> Receive:
        """`receive`, which refuses a body that is larger than it may be."""
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._max_bytes:
                raise HTTPException(413, self._too_large)  # FastAPI passes these on
            return message

        return counted

    @property
    def _too_large(self) -> str:
        return f"the body has more than {self._max_bytes} bytes; send fewer"

    def _log(
        self, scope: Scope, status: int, seconds: float, facts: dict[str, Any]
    ) -> None:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 1),
        }
        log.info(json.dumps(line | facts))
