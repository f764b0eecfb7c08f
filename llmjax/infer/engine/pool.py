"""The pages of a pool: who has them, which are free, and which hold a known prefix.

Only full pages are shared, so nothing that is shared is ever written to. A page that
no row has keeps what it holds until it is needed: the least recently used goes first.
"""

import collections
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from llmjax.models.paged import UNUSED

Key = bytes  # of the tokens up to a page's end


class Pool:
    """The host's account of the pages of `paged.empty_pages`.

    Attributes:
      page: tokens of a page.
      size: pages that rows can have.
    """

    def __init__(self, pages: int, page: int):
        """
        Args:
          pages: of the pool, `UNUSED` among them.
          page: tokens of a page.
        """
        self.page, self.size = page, pages - 1
        self._free = [p for p in range(pages - 1, -1, -1) if p != UNUSED]
        self._users: dict[int, int] = {}  # page -> how many rows have it
        self._page_of: dict[Key, int] = {}
        self._key_of: dict[int, Key] = {}
        self._idle: collections.OrderedDict[int, None] = collections.OrderedDict()

    @property
    def available(self) -> int:
        """Pages that no row has."""
        return len(self._free) + len(self._idle)

    def take(self) -> int | None:
        """A page for one row to write; None: all are in use."""
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        else:
            return None
        self._users[page] = 1
        return page

    def share(self, keys: Iterable[Key]) -> list[int]:
        """The pages of the longest known beginning of these keys, now in use."""
        pages = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            self._users[page] = self._users.get(page, 0) + 1
            self._idle.pop(page, None)
            pages.append(page)
        return pages

    def publish(self, page: int, key: Key) -> None:
        """Says what a full page holds, for others to share."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def release(self, pages: Iterable[int]) -> None:
        """Gives a row's pages back; what they hold stays known while there is room."""
        for page in reversed([*pages]):  # a beginning outlives what follows it
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._free.append(page)


def first_key(salt: bytes = b"") -> Key:
    """The key of no tokens; `salt` is of what else the keys and values depend on."""
    return hashlib.sha256(salt).digest()


def next_key(key: Key, tokens: Sequence[int]) -> Key:
    """The key up to a page's end, from that of the page before and its own tokens."""
    return hashlib.sha256(key + np.asarray(tokens, np.int32).tobytes()).digest()
