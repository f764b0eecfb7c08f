"""The routes of the server."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from llmjax.serve import answers, served
from llmjax.serve.bodies import (
    Body,
    ChatBody,
    CompletionBody,
    Sampled,
    TokenizeBody,
    fields_of,
)
from llmjax.serve.errors import RefusedError, of_validation
from llmjax.serve.gate import FACTS, Gate
from llmjax.serve.metrics import Metrics
from llmjax.serve.served import Asked, Served
from llmjax.serve.streaming import Events, or_gone
from llmjax.serve.texts import Choice, Piece
from llmjax.serve.worker import Call, FullError, Worker

MAX_BYTES = 8 << 20
_PAGE = Path(__file__).with_name("page") / "index.html"
# of the page: nothing is loaded from elsewhere, and nothing sent there
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_ENDS = ("stop", "length")
_BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/tokenize": TokenizeBody,
}


def make_app(
    model: Served,
    worker: Worker,
    keys: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> FastAPI:
    """The ASGI app; it starts and stops the worker.

    Args:
      model: what is served.
      worker: of its engine.
      keys: of which one is needed; none: no key is.
      max_bytes: of a request's body.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await run_in_threadpool(worker.stop)

    # its pages of the API would come from other hosts
    app = FastAPI(title="llmjax", lifespan=lifespan, docs_url=None, redoc_url=None)
    metrics = Metrics(worker)
    app.add_middleware(
        Gate,
        metrics=metrics,
        keys=keys,
        max_bytes=max_bytes,
        closing=lambda: worker.draining,
    )
    app.state.metrics = metrics
    _add_errors(app)
    _add_completions(app, model, Server(model, worker, metrics))
    _add_others(app, model, worker, metrics)
    return app


class Server:
    """Answers completions."""

    def __init__(self, model: Served, worker: Worker, metrics: Metrics):
        self._model, self._worker, self._metrics = model, worker, metrics

    async def answer(
        self,
        request: Request,
        body: Sampled,
        ask: Callable[[Served, Any], Asked],
        form: answers.Form,
    ) -> Response:
        """The answer to a body, whole or in pieces.

        Raises:
          RefusedError: it can't be had.
        """
        self._check_open()
        # before any work is done for it
        self._check_places(body.n * len(getattr(body, "prompts", "1")))
        began = time.monotonic()
        # tokens and grammars are made while others are served
        asked = await run_in_threadpool(ask, self._model, body)
        with _full():
            call = self._worker.submit(asked.requests)
        facts = request.scope[FACTS]
        facts |= {"prompt_tokens": sum(asked.prompts), "stream": body.stream}
        choices = [
            Choice(self._model.tokenizer, body.stops, goes_on=not form.chat)
            for _ in asked.requests
        ]
        pieces = self._pieces(call, choices, began, facts)

        def close() -> None:
            facts.setdefault("finished", "gone")
            call.cancel()  # nothing, where all ended

        if body.stream:
            options = body.stream_options
            with_usage = options is not None and options.include_usage
            lines = self._lines(pieces, choices, asked, form, with_usage)
            return Events(lines, close)
        try:
            own = await or_gone(request, _gathered(pieces, len(choices)))
        finally:
            close()
        if own is None:
            return Response(status_code=499)
        whole = form.whole(asked, own, answers.usage(asked, choices))
        return JSONResponse(whole)

    def _check_open(self) -> None:
        if self._worker.dead is not None:
            raise RefusedError(503, f"the engine is gone: {self._worker.dead}")
        if self._worker.draining:
            raise RefusedError(503, "the server is closing; ask another", after=5)
        if not self._worker.ready:
            raise RefusedError(503, "the server is not ready yet; see /health", after=5)

    def _check_places(self, count: int) -> None:
        if count > self._worker.places:
            raise RefusedError(
                400,
                f"n is too large: {count} texts are asked for, and there are "
                f"{self._worker.places} places; ask for fewer",
                "n",
            )
        with _full():
            self._worker.check(count)

    async def _pieces(
        self,
        call: Call,
        choices: Sequence[Choice],
        began: float,
        facts: dict[str, Any],
    ) -> AsyncIterator[tuple[int, Piece]]:
        last: dict[int, float] = {}
        async for number, event in call.events():
            now = time.monotonic()
            if event.tokens:
                first = number not in last
                self._metrics.token(now - last.get(number, began), first)
                facts.setdefault("first_token_ms", round(1000 * (now - began), 1))
                last[number] = now
            piece = choices[number].add(event)
            facts["completion_tokens"] = sum(choice.tokens for choice in choices)
            facts["cached_tokens"] = choices[0].cached
            if piece.finished is not None:
                facts["finished"] = piece.finished
                if piece.finished not in _ENDS:
                    raise RefusedError(500, _why(piece.finished))
                call.cancel(number)  # a stop string ends it before the engine knows
            yield number, piece

    async def _lines(
        self,
        pieces: AsyncIterator[tuple[int, Piece]],
        choices: Sequence[Choice],
        asked: Asked,
        form: answers.Form,
        with_usage: bool,
    ) -> AsyncIterator[str]:
        try:
            if form.chat:
                for index in range(len(choices)):
                    yield _line(form.opening(index))
            async for number, piece in pieces:
                if piece.text or piece.tokens or piece.finished:
                    yield _line(form.piece(number, piece))
            if with_usage:
                yield _line(form.last(answers.usage(asked, choices)))
        except RefusedError as e:
            yield _line(e.body())
        yield "data: [DONE]\n\n"


async def _gathered(
    pieces: AsyncIterator[tuple[int, Piece]], count: int
) -> list[list[Piece]]:
    own: list[list[Piece]] = [[] for _ in range(count)]
    async for number, piece in pieces:
        own[number].append(piece)
    return own


@contextlib.contextmanager
def _full() -> Iterator[None]:
    try:
        yield
    except FullError as e:
        raise RefusedError(429, str(e), code="full", after=e.after) from e


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n"


def _why(finished: str) -> str:
    reasons = {
        "not_finite": "the model's logits are not finite",
        "cancelled": "the server closes, and this took too long",
        "constraint": "the text's form can't be completed from where it is",
    }
    return reasons.get(finished, "this request failed in the engine; the log says why")


def _add_completions(app: FastAPI, model: Served, server: Server) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request, body: CompletionBody) -> Response:
        form = answers.Form(False, model.name, model.tokenizer, body.logprobs)
        return await server.answer(request, body, served.completion, form)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatBody) -> Response:
        top = (body.top_logprobs or 0) if body.logprobs else None
        form = answers.Form(True, model.name, model.tokenizer, top)
        return await server.answer(request, body, served.chat, form)


def _add_others(app: FastAPI, model: Served, worker: Worker, metrics: Metrics) -> None:
    created = int(time.time())

    def entry() -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": created,
            "owned_by": "llmjax",
            "max_model_len": model.room.max_length,
        }

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [entry()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Any:
        served.check_name(model, name)
        return entry()

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Any:
        if body.model is not None:
            served.check_name(model, body.model)

        def ids() -> list[int]:
            if body.messages is not None:
                return served.conversation(model, body.messages).tolist()
            return model.encode(body.prompt or "").tolist()

        tokens = await run_in_threadpool(ids)
        most = model.room.max_length
        return {"tokens": tokens, "count": len(tokens), "max_model_len": most}

    @app.get("/health/live")
    async def live() -> Any:
        if worker.dead is not None:
            raise RefusedError(503, f"the engine is gone: {worker.dead}")
        return {"status": "alive"}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> Any:
        if worker.dead is not None or worker.draining or not worker.ready:
            raise RefusedError(503, "requests are not taken now", after=1)
        return {"status": "ready"}

    @app.get("/metrics")
    async def measured() -> Response:
        text = metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    if _PAGE.is_file():
        page = _PAGE.read_text(encoding="utf-8")

        @app.get("/")
        async def index() -> Response:
            return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(_: Request, e: RefusedError) -> Response:
        return e.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, e: RequestValidationError) -> Response:
        fields = fields_of(_BODIES.get(request.url.path, Body))
        return of_validation(e.errors(), fields).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, e: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        return RefusedError(e.status_code, f"{what}: {e.detail}").response()

    @app.exception_handler(Exception)
    async def fault(_: Request, e: Exception) -> Response:
        return RefusedError(500, "the server failed here; its log says why").response()
