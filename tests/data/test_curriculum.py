"""How large a batch is, and how long its rows: functions of the step."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import DataConfig, Stage
from llmjax.data.batches.curriculum import Curriculum, cut

quick = settings(deadline=None, max_examples=30)


@quick
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_rows_before_a_step_are_those_of_all_steps_before(
    stages: list[tuple[int, int]], step: int
) -> None:
    steps = np.cumsum([0] + [length for length, _ in stages[1:]]).tolist()
    sizes = [size for _, size in stages]
    ramp = tuple(Stage(s, n) for s, n in zip(steps, sizes, strict=True))
    found = Curriculum(DataConfig(batch_size=sizes[-1], batch_sizes=ramp))
    for s in range(step):
        (size,) = sizes[int(np.searchsorted(steps, s, "right")) - 1 :][:1]
        assert found.batch_size(s) == size
        assert found.first_row(s + 1) == found.first_row(s) + size
        assert found.tokens(s) == size * 256
    assert found.first_row(0) == 0


def test_without_stages_all_steps_are_alike() -> None:
    found = Curriculum(DataConfig(batch_size=6, seq_len=8))
    assert [found.batch_size(s) for s in (0, 9)] == [6, 6]
    assert [found.seq_len(s) for s in (0, 9)] == [8, 8]
    assert found.first_row(10**6) == 6 * 10**6
    lens = (Stage(0, 2), Stage(3, 4), Stage(5, 8))
    found = Curriculum(DataConfig(batch_size=6, seq_len=8, seq_lens=lens))
    assert [found.seq_len(s) for s in range(7)] == [2, 2, 2, 4, 4, 8, 8]
    assert found.batch_sizes == (6,)
    assert found.shapes() == [(24, 2), (12, 4), (6, 8)]


def test_rows_are_cut_and_counted_anew() -> None:
    batch = {
        "tokens": np.array([[11, 12, 13, 21, 22, 31], [41, 42, 43, 44, 0, 0]]),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 3], [1, 1, 1, 1, 0, 0]], np.int32),
        "positions": np.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]], np.int32),
    }
    found = cut(batch, 2)
    assert found["tokens"].tolist() == [
        [11, 12],
        [13, 21],
        [22, 31],
        [41, 42],
        [43, 44],
        [0, 0],
    ]
    segments = [[1, 1], [1, 2], [1, 2], [1, 1], [1, 1], [0, 0]]
    positions = [[0, 1], [0, 0], [0, 0], [0, 1], [0, 1], [0, 0]]
    assert found["segment_ids"].tolist() == segments
    assert found["positions"].tolist() == positions
    assert {v.dtype for k, v in found.items() if k != "tokens"} == {np.dtype(np.int32)}
    assert cut(batch, 6) is batch
