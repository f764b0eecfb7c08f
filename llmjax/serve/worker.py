"""The one thread that an engine has, and how requests of an event loop reach it.

An engine is not thread-safe: requests and cancellations go to its thread by a queue,
and what it tells comes back by `call_soon_threadsafe`, once a turn.
"""

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from llmjax.infer.engine.engine import Engine
from llmjax.infer.engine.request import Event, Request

_log = logging.getLogger(__name__)


class FullError(Exception):
    """No more requests can wait; `after` seconds there may be room."""

    def __init__(self, after: int):
        super().__init__(f"all places are taken; try again in {after} s")
        self.after = after


class Call:
    """Some requests that one client waits for."""

    def __init__(self, worker: "Worker", requests: Sequence[Request]):
        """`Worker.submit` makes it."""
        self._worker, self.requests = worker, tuple(requests)
        self._open = {*range(len(requests))}
        self._cancelled: set[int] = set()
        self._began = time.monotonic()
        self._news: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(number of the request, what it has new), until all have ended."""
        while self._open or not self._news.empty():
            number, event = await self._news.get()
            if number not in self._cancelled:
                yield number, event

    def cancel(self, number: int | None = None) -> None:
        """Ends one request, or all; nothing more is told of it."""
        for n in [*self._open] if number is None else [number]:
            if n in self._open:
                self._cancelled.add(n)
                self._end(n)
                self._worker.cancel(self, n)

    def close(self) -> None:
        """Ends all, and tells it."""
        for number in [*self._open]:
            self._worker.cancel(self, number)
            self.tell(number, Event(-1, finished="cancelled"))

    def tell(self, number: int, event: Event) -> None:
        """Called in the event loop."""
        if number in self._open:
            if event.finished:
                self._end(number)
            self._news.put_nowait((number, event))

    def _end(self, number: int) -> None:
        self._open.discard(number)
        seconds = time.monotonic() - self._began
        self._worker.ended(self, not self._open, seconds)


@dataclasses.dataclass(frozen=True)
class _Order:
    """What the engine's thread is to do: begin a request, or end it."""

    call: Call
    number: int
    begin: bool


class Worker:
    """Runs an engine in a thread of its own.

    Its methods are called in the event loop that `start` was called in.

    Attributes:
      ready: whether the engine is warm and takes requests.
      dead: why there is no engine any more; None: there is one, or will be.
      draining: whether no more requests are taken.
      open: requests that have not ended.
      engine: to look at its counts; only its thread calls it.
    """

    def __init__(self, make: Callable[[], Engine], rows: int, waiting: int):
        """
        Args:
          make: a warm engine; again where one fails.
          rows: of the engine.
          waiting: requests that may wait for a row.
        """
        self._make, self._rows, self.places = make, rows, rows + waiting
        self._open_calls: set[Call] = set()
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._calls: dict[int, tuple[Call, int]] = {}  # by the engine's id
        self._ids: dict[tuple[Call, int], int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._seconds = 1.0  # that a request took lately
        self.ready, self.draining, self.open = False, False, 0
        self.dead: str | None = None
        self.engine: Engine | None = None

    def start(self) -> None:
        """Starts the thread, which makes the engine."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> bool:
        """Ends the thread after the turn that it is in; whether it ended in time."""
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, requests: Sequence[Request]) -> Call:
        """Queues requests, all or none.

        Raises:
          FullError: not all have a place.
        """
        self.check(len(requests))
        call = Call(self, requests)
        self._open_calls.add(call)
        self.open += len(requests)
        for number in range(len(requests)):
            self._orders.put(_Order(call, number, begin=True))
        return call

    def check(self, count: int) -> None:
        """Raises FullError where that many requests have no place now."""
        if self.open + count > self.places:
            behind = max(0, self.open - self._rows) / self._rows
            raise FullError(min(60, max(1, round(self._seconds * (1 + behind)))))

    def cancel(self, call: Call, number: int) -> None:
        """Of `Call.cancel`."""
        self._orders.put(_Order(call, number, begin=False))

    def ended(self, call: Call, last: bool, seconds: float) -> None:
        """Of `Call`: one of its requests ended, or the last."""
        self.open -= 1
        if last:
            self._open_calls.discard(call)
        self._seconds += 0.1 * (seconds - self._seconds)

    async def drained(self, seconds: float) -> bool:
        """Takes no more requests, and waits for those there are; whether all ended.

        What has not ended by then is ended, and told so.
        """
        self.draining = True
        until = time.monotonic() + seconds
        while self.open and time.monotonic() < until:
            await asyncio.sleep(0.02)
        whole = not self.open
        for call in [*self._open_calls]:
            call.close()
        return whole

    # --- in the thread ---------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self.engine = self._make()
                self.ready = True
                self._serve(self.engine)
                return
            except Exception as e:
                was_ready, self.ready = self.ready, False
                _log.exception("the engine failed")
                if not was_ready:  # it can't be made: another try does not help
                    self.dead = f"{type(e).__name__}: {e}"
                self._fail()
                if self.dead is not None:
                    return

    def _serve(self, engine: Engine) -> None:
        while True:
            for order in self._taken(wait=not engine.busy):
                if order is None:
                    return
                self._do(engine, order)
            if engine.busy:
                self._tell(engine.turn())

    def _taken(self, wait: bool) -> Iterator[_Order | None]:
        """The orders that came; waits for one where there is nothing else to do."""
        try:
            yield self._orders.get(block=wait)
            while True:
                yield self._orders.get(block=False)
        except queue.Empty:
            return

    def _do(self, engine: Engine, order: _Order) -> None:
        call, number = order.call, order.number
        if not order.begin:
            if (id := self._ids.get((call, number))) is not None:
                engine.cancel(id)
            return
        try:
            id = engine.submit(call.requests[number])
        except Exception:  # what is refused was refused before: a fault of ours
            _log.exception("the engine refuses a request")
            self._post([(call, number, Event(-1, finished="failed"))])
        else:
            self._calls[id], self._ids[call, number] = (call, number), id

    def _tell(self, events: Sequence[Event]) -> None:
        news = []
        for event in events:
            call, number = self._calls[event.id]
            news.append((call, number, event))
            if event.finished:
                del self._calls[event.id], self._ids[call, number]
        if news:
            self._post(news)

    def _fail(self) -> None:
        """Ends all requests that the engine had, and forgets it."""
        calls = [*self._calls.values()]
        self._calls, self._ids, self.engine = {}, {}, None
        if self.dead is not None:  # nobody will take them
            orders = filter(None, self._taken(wait=False))
            calls += [(order.call, order.number) for order in orders if order.begin]
        event = Event(-1, finished="failed")
        self._post([(call, number, event) for call, number in calls])

    def _post(self, news: list[tuple[Call, int, Event]]) -> None:
        def tell() -> None:
            for call, number, event in news:
                call.tell(number, event)

        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop is closed: nobody waits
            return
