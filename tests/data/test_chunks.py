"""Texts of one length, cut across documents or each by itself."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data.batches import chunks
from llmjax.data.batches.chunks import Chunks, Clipped
from llmjax.data.store.tokens import from_documents

EOS = 0
quick = settings(deadline=None, max_examples=40)


@quick
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12), st.integers(1, 4))
def test_chunks_are_all_documents_end_to_end(
    sizes: list[int], length: int, stride: int
) -> None:
    ends = np.cumsum(sizes, dtype=np.int64)
    texts = [np.arange(e - n, e) + 1 for e, n in zip(ends, sizes, strict=True)]
    line = [t for text in texts for t in [*text.tolist(), EOS]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_STRIDE", stride)
        found = Chunks(from_documents(texts), length, EOS)
        pieces = [found[i]["tokens"] for i in range(len(found))]
        if pieces:
            np.testing.assert_array_equal(found[-1]["tokens"], pieces[-1])
    assert [t for p in pieces for t in p.tolist()] == line
    assert found.lengths.tolist() == [len(p) for p in pieces]
    assert all(len(p) == length for p in pieces[:-1])
    assert all(p.dtype == np.int32 for p in pieces)


def test_clipped_documents_keep_what_they_have() -> None:
    class Annotated:
        lengths = np.array([3, 1])

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            n = int(self.lengths[index])
            return {
                "tokens": np.arange(n),
                "tags": np.arange(n) + 7,
                "label": np.int32(index),
                "names": np.array(["x", "y", "z", "w"]),
            }

    end = Clipped(Annotated(), 2, "left")[0]
    assert end["tokens"].tolist() == Annotated()[0]["tokens"][-2:].tolist()
    found = Clipped(Annotated(), 2)
    assert len(found) == 2
    assert found.lengths.tolist() == [2, 1]
    assert found[0]["tokens"].tolist() == [0, 1]
    assert found[0]["tags"].tolist() == [7, 8]
    assert found[0]["names"].tolist() == ["x", "y", "z", "w"]
    assert found[1]["label"] == 1


def test_mistakes_are_named() -> None:
    source = from_documents([[1, 2, 3]])
    for kind in (lambda: Chunks(source, 0, EOS), lambda: Clipped(source, -2)):
        with pytest.raises(ValueError, match=r"no room for text.*data\.seq_len"):
            kind()
    found = Chunks(source, 3, EOS)
    assert len(found) == 2
    for i in (2, -3):
        with pytest.raises(IndexError, match=f"chunk {i} of 2"):
            found[i]
