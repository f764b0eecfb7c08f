"""A request on its way: what is known of its text, and where its pages are."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from llmjax.infer.engine import pool as pool_lib
from llmjax.infer.engine.request import Answer, Request


@dataclasses.dataclass(eq=False)
class Row:
    """The host's account of a request.

    The device is a step ahead of what is read of it: `drawn` and `filled` count what
    was launched, `tokens` is what is known.

    Attributes:
      id: the request's, in the order of arrival.
      request: what was asked.
      tokens: the prompt, and what was written so far.
      answer: what was written so far.
      slot: where the device keeps its last token; None: it waits.
      pages: in the order of the text.
      keys: of its full pages, as far as they are published.
      filled: tokens whose keys and values are in the pages.
      target: tokens to read before the next is drawn; more than `filled`: it reads.
      drawn: tokens that were drawn, known or not.
      allowed: what its constraint allows next, as `Constraint.allowed` says it.
    """

    id: int
    request: Request
    tokens: list[int]
    answer: Answer = dataclasses.field(default_factory=Answer)
    slot: int | None = None
    pages: list[int] = dataclasses.field(default_factory=list)
    keys: list[bytes] = dataclasses.field(default_factory=list)
    filled: int = 0
    target: int = 0
    drawn: int = 0
    allowed: np.ndarray | None = None

    @property
    def order(self) -> tuple[int, int]:
        """The first is served first, and gives way last."""
        return self.request.priority, self.id

    @property
    def reads(self) -> bool:
        """Whether tokens that are known must be read before the next is drawn."""
        return self.filled < self.target

    @property
    def writes(self) -> bool:
        """Whether its next token may be drawn in the step that comes."""
        request, unread = self.request, self.drawn - len(self.answer.tokens)
        waits = request.constraint is not None and unread > 0
        return not self.reads and self.drawn < request.max_new_tokens and not waits

    def page_keys(self, page: int, until: int) -> Iterator[bytes]:
        """The keys of the pages that are full with the first `until` tokens."""
        key = pool_lib.first_key()
        for number in itertools.count():
            end = (number + 1) * page
            if end > until:
                return
            if number < len(self.keys):
                key = self.keys[number]
            else:
                key = pool_lib.next_key(key, self.tokens[end - page : end])
            yield key

    def join(self, slot: int, shared: list[int], pool: pool_lib.Pool) -> None:
        """Begins, or begins again, with pages that hold its beginning already."""
        page = pool.page
        self.slot, self.pages = slot, shared
        self.filled, self.target = len(shared) * page, len(self.tokens)
        self.drawn = len(self.answer.tokens)
        self.keys = [*self.page_keys(page, self.filled)]

    def publish(self, pool: pool_lib.Pool) -> None:
        """Lets others share the pages that are full of known tokens."""
        known = min(self.filled, len(self.tokens))
        keys = [*self.page_keys(pool.page, known)]
        for number in range(len(self.keys), len(keys)):
            pool.publish(self.pages[number], keys[number])
        self.keys = keys

    def leave(self, pool: pool_lib.Pool) -> None:
        """Gives its pages and its slot back."""
        pool.release(self.pages)
        self.slot, self.pages, self.keys = None, [], []
        self.filled = self.target = 0
