"""The device's side of an engine: its state, and the steps that it is given."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.infer.engine import penalties
from llmjax.infer.engine.room import Room, fitting
from llmjax.infer.engine.row import Row
from llmjax.infer.engine.step import Drawn, Rows, State, Steppable, step
from llmjax.infer.sampling import DEFAULT, rows_of
from llmjax.models.layers import compute_dtype
from llmjax.models.paged import UNUSED, empty_pages


@dataclasses.dataclass(frozen=True)
class Launch:
    """A step that was launched: which rows it draws for, and what it gives."""

    rows: list[Row]
    drawn: Drawn


class Device:
    """Launches steps, one after the other; none is waited for."""

    def __init__(self, model: Steppable, params: Any, room: Room, pages: int):
        """
        Args:
          model, params: a decoder.
          room: how much there is.
          pages: of the pool, `UNUSED` among them.
        """
        self._model, self._room = model, room
        self._params = jax.device_put(params)  # nothing, where they are there already
        cfg, dtype = model.cfg, compute_dtype(model.layout)
        slots = room.rows + 1  # one more, which padding writes to

        def empty() -> State:
            return State(
                empty_pages(cfg, pages, room.page, dtype),
                jnp.zeros(slots, jnp.int32),
                penalties.nothing_said(slots, cfg.vocab_size),
            )

        self._state = jax.jit(empty)()

    def warm_up(self, constraints: bool) -> int:
        """Compiles every step that may come; returns how many."""
        compiled = 0
        shapes: list[tuple[int, int | None]]
        shapes = [(B, None) for B in self._room.row_counts]
        shapes += [(1, T) for T in self._room.chunks]
        for M in self._room.tables:
            for B, T in shapes:
                tokens_BT = None if T is None else np.zeros((B, T), np.int32)
                for masked in (False, True)[: 1 + constraints]:
                    allowed_BW = self._everything(B) if masked else None
                    self._run(self._arguments([], [], (B, M)), tokens_BT, allowed_BW)
                    compiled += 1
        self._begin(self._room.rows, penalties.NONE, [], [])
        jax.block_until_ready(self._state.last_S)
        return compiled

    def join(self, row: Row) -> None:
        """Tells of a text that has got a slot."""
        assert row.slot is not None
        weighs = row.request.penalties
        if not weighs.neutral:
            drawn = [token.id for token in row.answer.tokens]
            self._begin(row.slot, weighs, row.request.prompt, drawn)

    def launch(self, rows: list[Row], counts: list[int], tokens_BT: Any) -> Launch:
        """Launches a step in which each row reads `counts` tokens.

        Args:
          rows: at least one.
          counts: tokens that each reads.
          tokens_BT: what they read; None: each its last token.
        """
        B = fitting(self._room.row_counts, len(rows))
        M = fitting(self._room.tables, max(len(row.pages) for row in rows))
        arguments = self._arguments(rows, counts, (B, M))
        drawn = self._run(arguments, tokens_BT, self._allowed(rows, B))
        drawing = []
        for row, count in zip(rows, counts, strict=True):
            row.filled += count
            if not row.reads:
                row.drawn += 1
                drawing.append(row)
        return Launch(drawing, drawn)

    def _begin(self, *arguments: Any) -> None:
        state = self._state
        said = penalties.begin(state.said, *arguments)
        self._state = State(state.layers, state.last_S, said)

    def _run(self, rows: Rows, tokens_BT: Any, allowed_BW: Any) -> Drawn:
        self._state, drawn = step(
            self._model, self._params, self._state, rows, tokens_BT, allowed_BW
        )
        return drawn

    def _arguments(
        self, rows: list[Row], counts: list[int], shape: tuple[int, int]
    ) -> Rows:
        """Of a step of [B, M] tables of pages; rows beyond those given are padding."""
        B, _ = shape
        table_BM = np.full(shape, UNUSED, np.int32)
        for b, row in enumerate(rows):
            table_BM[b, : len(row.pages)] = row.pages
        requests = [row.request for row in rows]
        none = [0] * (B - len(rows))

        def column(values: Iterable[Any], dtype: Any = np.int32) -> Any:
            return np.array([*values, *none], dtype)

        slots_B = column(row.slot for row in rows)
        slots_B[len(rows) :] = self._room.rows
        draws = [
            row.filled + count >= row.target
            for row, count in zip(rows, counts, strict=True)
        ]
        return Rows(
            slots_B,
            table_BM,
            column(row.filled for row in rows),
            column(counts),
            column((request.seed for request in requests), np.uint32),
            column((request.number for request in requests), np.uint32),
            column(row.drawn for row in rows),
            column(draws, bool),
            rows_of([*(r.sampling for r in requests), *[DEFAULT] * len(none)]),
            penalties.rows_of(
                [*(r.penalties for r in requests), *[penalties.NONE] * len(none)]
            ),
            np.array(any(request.top for request in requests)),
        )

    def _allowed(self, rows: list[Row], B: int) -> np.ndarray | None:
        if all(row.request.constraint is None for row in rows):
            return None
        allowed_BW = self._everything(B)
        for b, row in enumerate(rows):
            if row.allowed is not None:
                allowed_BW[b] = row.allowed
        return allowed_BW

    def _everything(self, B: int) -> np.ndarray:
        words = -(-self._model.cfg.vocab_size // 32)
        return np.full((B, words), 0xFFFFFFFF, np.uint32)
