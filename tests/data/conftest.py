"""A shuffle that is quick for a few documents."""

import functools
from collections.abc import Iterator

import numpy as np
import pytest

from llmjax.data.batches import packing


@pytest.fixture(scope="module")
def quick_shuffle() -> Iterator[None]:
    """Grain's index_shuffle walks through 2 ** 16 places to find three."""

    @functools.cache
    def order(size: int, seed: int) -> list[int]:
        return np.random.default_rng(seed).permutation(size).tolist()

    def shuffle(index: int, max_index: int, seed: int, rounds: int) -> int:
        return order(max_index + 1, seed)[index]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "index_shuffle", shuffle)
        yield
