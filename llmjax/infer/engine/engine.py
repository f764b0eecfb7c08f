"""The engine: a queue of requests, a pool of pages, and a step that never waits.

Each turn reads a chunk of one prompt and draws one token of every text that is being
written, so a long prompt delays the others by a chunk at most (chunked prefill, Agrawal
et al. 2023, arXiv:2308.16369). The device is one turn ahead of the host: a turn is
launched before the tokens of the one before it are read. Where pages run out, the text
that came last gives its pages back and is read again later, with the same result.
"""

import collections
import heapq
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from llmjax.infer.engine.device import Device, Launch
from llmjax.infer.engine.pool import Pool
from llmjax.infer.engine.request import Answer, Event, Reason, Request, Token
from llmjax.infer.engine.room import Room, fitting
from llmjax.infer.engine.row import Row
from llmjax.infer.engine.step import Drawn, Steppable
from llmjax.infer.prompts import check_tokens, checked, stops
from llmjax.models.positions.lengths import follow_length

_log = logging.getLogger(__name__)


class Engine:
    """Continues texts, many at once; see the head of this file.

    One thread calls it. `submit` queues a request; each `turn` gives events; `run` does
    both for a list.

    Attributes:
      counts: of what was done: tokens of prompts that were read ("read") or found in
        the pool ("cached"), tokens that were drawn ("drawn"), texts that gave way
        ("preempted"), launches of steps ("steps").
    """

    def __init__(self, model: Steppable, params: Any, room: Room | None = None):
        """
        Args:
          model, params: a decoder.
          room: how much it holds.

        Raises:
          ValueError: a model that is no decoder, or whose rates of rotation follow the
            length of a text.
        """
        cfg = model.cfg
        if cfg.architecture != "decoder" or not hasattr(model, "last_logits"):
            raise ValueError(
                f"the model is a {type(model).__name__} ({cfg.architecture}); an "
                "engine continues texts of a decoder; `generate` does an "
                "encoder-decoder's"
            )
        if follow_length(cfg):
            raise ValueError(
                "the model's rates of rotation follow a text's length, so that what a "
                "page holds depends on what comes later; use `generate`"
            )
        self.model = model
        self.room = Room() if room is None else room
        pages = 1 + (self.room.pages or self.room.rows * self.room.most)
        self._pool = Pool(pages, self.room.page)
        self._device = Device(model, params, self.room, pages)
        self._slots = [*range(self.room.rows)][::-1]
        self._waiting: list[tuple[tuple[int, int], Row]] = []
        self._rows: dict[int, Row] = {}  # those with a slot, by id
        self._launched: collections.deque[Launch] = collections.deque()
        self._events: list[Event] = []
        self._next = 0
        self.counts: collections.Counter[str] = collections.Counter()

    def warm_up(self, constraints: bool = False) -> int:
        """Compiles every step that may come; returns how many.

        Args:
          constraints: those of requests with a constraint too.
        """
        return self._device.warm_up(constraints)

    # --- asking ----------------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Queues a request; returns its id.

        Raises:
          ValueError: an empty prompt, a token outside the vocabulary, more tokens than
            `room.max_length` or the model's positions, or a seed or a number that is
            no uint32.
        """
        cfg = self.model.cfg
        for name in ("seed", "number"):
            if not 0 <= (value := getattr(request, name)) < 2**32:
                raise ValueError(f"{name} is {value}; it must be in [0, 2**32)")
        (prompt,) = checked(cfg, [request.prompt], request.max_new_tokens, 0)
        stops(cfg, request.stop_tokens)
        if request.penalties.bias:
            biased = np.array([token for token, _ in request.penalties.bias])
            check_tokens(cfg, "penalties.bias", [biased])
        length = len(prompt) + request.max_new_tokens
        if length > self.room.max_length:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens="
                f"{request.max_new_tokens} are more than the engine's max_length="
                f"{self.room.max_length}; shorten one, or make room for more"
            )
        row = Row(self._next, request, prompt.tolist())
        self._next += 1
        heapq.heappush(self._waiting, (row.order, row))
        return row.id

    def cancel(self, id: int) -> bool:
        """Ends a request; whether it had not ended. Its pages are free at once."""
        row = self._rows.get(id)
        if row is None:
            found = [r for _, r in self._waiting if r.id == id]
            if not found:
                return False
            (row,) = found
            self._waiting = [(order, r) for order, r in self._waiting if r is not row]
            heapq.heapify(self._waiting)
        self._finish(row, "cancelled")
        return True

    @property
    def busy(self) -> bool:
        """Whether anything is to do or to tell."""
        return bool(self._waiting or self._rows or self._launched or self._events)

    @property
    def waiting(self) -> int:
        """Texts that have no slot."""
        return len(self._waiting)

    @property
    def writing(self) -> int:
        """Texts that have a slot."""
        return len(self._rows)

    @property
    def free_pages(self) -> int:
        """Pages that no text has."""
        return self._pool.available

    def run(
        self,
        requests: Sequence[Request],
        on_event: Callable[[Event], None] | None = None,
    ) -> list[Answer]:
        """The answers to some requests, in their order.

        Raises:
          ValueError: as `submit`.
        """
        rows = {self.submit(request): Answer() for request in requests}
        while self.busy:
            for event in self.turn():
                if on_event is not None:
                    on_event(event)
                if (answer := rows.get(event.id)) is not None:
                    answer.tokens.extend(event.tokens)
                    answer.finished = event.finished or answer.finished
                    answer.cached = event.cached or answer.cached
        return [*rows.values()]

    # --- a turn ----------------------------------------------------------------------

    def turn(self) -> list[Event]:
        """Launches the next steps, and tells what those before them gave."""
        if any(row.request.constraint is not None for row in self._rows.values()):
            self._collect(len(self._launched))  # what may come next depends on it
        self._admit()
        before = len(self._launched)
        self._read_prompt()
        self._write()
        # what is launched now is read in the next turn, while the device goes on
        self._collect(before if len(self._launched) > before else len(self._launched))
        events, self._events = self._events, []
        return events

    def _admit(self) -> None:
        """Gives slots and pages to those that wait, the first first."""
        while self._waiting and self._slots:
            row = self._waiting[0][1]
            page = self.room.page
            shared = self._pool.share(row.page_keys(page, len(row.tokens) - 1))
            more = -(-len(row.tokens) // page) - len(shared)
            if more > self._pool.available:
                self._pool.release(shared)
                return
            heapq.heappop(self._waiting)
            row.join(self._slots.pop(), shared, self._pool)
            row.pages += [self._page() for _ in range(more)]
            row.answer.cached = max(row.answer.cached, row.filled)
            self.counts["cached"] += row.filled
            self._rows[row.id] = row
            self._device.join(row)

    def _page(self) -> int:
        page = self._pool.take()
        assert page is not None, "no page is free"
        return page

    def _read_prompt(self) -> None:
        """Launches the next chunk of the first row that reads."""
        reading = [row for row in self._rows.values() if row.reads]
        if not reading:
            return
        row = min(reading, key=lambda row: row.order)
        if not self._masked(row):
            return
        count = min(row.target - row.filled, self.room.chunk)
        T = fitting(self.room.chunks, count)
        tokens_BT = np.zeros((1, T), np.int32)
        tokens_BT[0, :count] = row.tokens[row.filled : row.filled + count]
        self._launch([row], [count], tokens_BT)
        self.counts["read"] += count
        row.publish(self._pool)

    def _write(self) -> None:
        """Launches the next token of all rows that write."""
        rows = []
        for row in sorted(self._rows.values(), key=lambda row: row.order):
            there = row.id in self._rows and row.writes and self._room_for(row)
            if there and self._masked(row):
                rows.append(row)
        rows = [row for row in rows if row.id in self._rows and row.writes]
        if rows:
            self._launch(rows, [1] * len(rows), None)

    def _room_for(self, row: Row) -> bool:
        """Makes room for a row's next token; False: it gave way itself."""
        if row.filled < len(row.pages) * self.room.page:
            return True
        page = self._pool.take()
        if page is None:
            self._collect(len(self._launched))  # some may have ended
            if row.id not in self._rows or not row.writes:
                return False
            page = self._pool.take()
        while page is None:
            last = max(self._rows.values(), key=lambda row: row.order)
            self._preempt(last)
            if last is row:
                return False
            page = self._pool.take()
        row.pages.append(page)
        return True

    def _preempt(self, row: Row) -> None:
        """Takes a row's pages; it waits to be read again. All it drew is known."""
        self._leave(row)
        heapq.heappush(self._waiting, (row.order, row))
        self.counts["preempted"] += 1

    def _leave(self, row: Row) -> None:
        assert row.slot is not None
        self._slots.append(row.slot)
        row.leave(self._pool)
        del self._rows[row.id]

    def _masked(self, row: Row) -> bool:
        """Asks a row's constraint what may come next; False: nothing, or it failed, and
        the row has ended."""
        constraint = row.request.constraint
        if constraint is None:
            return True
        try:
            row.allowed = constraint.allowed()
            if row.allowed.any():
                return True
            reason: Reason = "stop" if constraint.complete else "constraint"
        except Exception:
            _log.exception("the constraint of request %d failed", row.id)
            reason = "failed"
        self._finish(row, reason)
        return False

    # --- the device ------------------------------------------------------------------

    def _launch(self, rows: list[Row], counts: list[int], tokens_BT: Any) -> None:
        launch = self._device.launch(rows, counts, tokens_BT)
        self.counts["steps"] += 1
        if launch.rows:
            self._launched.append(launch)

    # --- what came of it -------------------------------------------------------------

    def _collect(self, count: int) -> None:
        """Reads what the first `count` launches gave; waits for them."""
        for _ in range(count):
            launch = self._launched.popleft()
            drawn: Drawn = jax.device_get(launch.drawn)
            for b, row in enumerate(launch.rows):
                if row.id in self._rows:  # else it ended a step before
                    self._told(row, b, drawn)

    def _told(self, row: Row, b: int, drawn: Drawn) -> None:
        """Takes in one token of a row."""
        request, token = row.request, int(drawn.tokens_B[b])
        if not drawn.finite_B[b]:
            return self._finish(row, "not_finite")
        if token in request.stop_tokens:
            return self._finish(row, "stop")
        self.counts["drawn"] += 1
        top: tuple[tuple[int, float], ...] = ()
        if request.top:
            pairs = zip(drawn.top_BK[b], drawn.top_log_p_BK[b], strict=True)
            top = tuple((int(i), float(p)) for i, p in pairs)
        new = Token(token, float(drawn.log_p_B[b]), top)
        row.tokens.append(token)
        row.answer.tokens.append(new)
        row.publish(self._pool)
        reason: Reason | None = None
        if len(row.answer.tokens) == request.max_new_tokens:
            reason = "length"
        if request.constraint is not None:
            reason = self._advanced(row, token) or reason
        if reason:
            return self._finish(row, reason, (new,))
        self._events.append(Event(row.id, (new,), cached=row.answer.cached))

    def _advanced(self, row: Row, token: int) -> Reason | None:
        """Tells a row's constraint of its token; whether the text ends with it."""
        constraint = row.request.constraint
        assert constraint is not None
        try:
            constraint.advance(token)
            if constraint.ended:
                return "stop" if constraint.complete else "constraint"
        except Exception:
            _log.exception("the constraint of request %d failed", row.id)
            return "failed"
        return None

    def _finish(self, row: Row, reason: Reason, tokens: tuple[Token, ...] = ()) -> None:
        if row.id in self._rows:
            self._leave(row)
        row.answer.finished = reason
        self._events.append(Event(row.id, tokens, reason, row.answer.cached))
