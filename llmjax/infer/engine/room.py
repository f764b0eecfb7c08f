"""How much an engine holds, and the few shapes that it computes in."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Room:
    """How much an engine holds, and the shapes that it computes in.

    Attributes:
      rows: texts that are written at once.
      max_length: tokens of a prompt and its continuation at most.
      page: tokens of a page.
      pages: of the pool; None: enough for all rows at `max_length`.
      chunk: tokens of a prompt that are read at once.
    """

    rows: int = 8
    max_length: int = 1024
    page: int = 16
    pages: int | None = None
    chunk: int = 256

    def __post_init__(self):
        for name in ("rows", "max_length", "page", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1")
        if self.pages is not None and self.pages < self.most:
            raise ValueError(
                f"pages={self.pages} of {self.page} tokens are fewer than the "
                f"{self.most} that one text of max_length={self.max_length} needs"
            )

    @property
    def most(self) -> int:
        """Pages of one text at most."""
        return -(-self.max_length // self.page)

    @property
    def row_counts(self) -> tuple[int, ...]:
        """The numbers of rows that a step may have."""
        return _sizes(1, self.rows, 2)

    @property
    def chunks(self) -> tuple[int, ...]:
        """The numbers of tokens that are read at once."""
        return _sizes(16, self.chunk, 4)

    @property
    def tables(self) -> tuple[int, ...]:
        """The numbers of pages of a row that a step may see."""
        return _sizes(4, self.most, 4)


def fitting(sizes: Sequence[int], count: int) -> int:
    """The smallest of `sizes` that holds `count`."""
    return next(size for size in sizes if size >= count)


def _sizes(first: int, last: int, factor: int) -> tuple[int, ...]:
    """first, first * factor, … below `last`, then that."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= factor
    return (*sizes, last)
