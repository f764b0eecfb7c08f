"""First-fit fills the rows; its index is the same in memory, on disk, and made anew."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grain.experimental import index_shuffle
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data.batches import packing
from llmjax.data.batches.index import Index
from llmjax.data.batches.packing import Concat, FirstFit, Lengths, Order, best_fit

pytestmark = pytest.mark.usefixtures("quick_shuffle")
quick = settings(deadline=None, max_examples=30)


def log_normal(count: int, mean: float, sigma: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.ceil(lengths).astype(np.int64)


def first_fit(
    lengths: np.ndarray, T: int, index: Index, window: int = 8192
) -> FirstFit:
    return FirstFit(Lengths(lengths), Order(len(lengths), 3), T, window, index)


@quick
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 25))
def test_best_fit_overlaps_nowhere_and_opens_no_row_in_vain(
    sizes: list[int], capacity: int
) -> None:
    given_ = np.array(sizes, np.int64)
    rows, columns = best_fit(given_, capacity)
    used = np.zeros((len(sizes), capacity), np.int64)
    for size, row, column in zip(sizes, rows, columns, strict=True):
        assert column + size <= capacity
        used[row, column : column + size] += 1
    assert used.max(initial=0) <= 1
    count = int(rows.max(initial=-1)) + 1
    filled = used.sum(axis=1)[:count]
    assert np.all(filled > 0)
    # No gaps, and no two rows whose contents would fit into one.
    assert np.all(np.diff(used, axis=1) <= 0)
    assert count < 2 or np.sort(filled)[:2].sum() > capacity
    # Dosa 2007: first fit decreasing takes 11/9 of the least, and 6/9; best fit too.
    assert count <= 11 / 9 * -(-sum(sizes) // capacity) * 1.5 + 1


@quick
@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 4))
def test_best_fit_puts_so_many_into_a_row_and_no_more(
    sizes: list[int], most: int
) -> None:
    rows, _ = best_fit(np.array(sizes, np.int64), 9, most)
    counts = np.bincount(rows, minlength=1)
    assert counts.max() <= most
    free = best_fit(np.array(sizes, np.int64), 9)
    if np.bincount(free[0], minlength=1).max() <= most:
        assert np.array_equal(rows, free[0])
    bound = Lengths(np.array([*sizes, 0])).most_in_row(9)
    assert np.bincount(free[0], minlength=1).max() <= bound <= 9


def test_best_fit_takes_the_fullest_row_that_has_room() -> None:
    rows, columns = best_fit(np.array([3, 6, 5, 4, 2]), 10)
    # 6 | 5 | 4 goes to 6 (room 4, not 5) | 3 to 5 | 2 to 5 + 3
    assert rows.tolist() == [1, 0, 1, 0, 1]
    assert columns.tolist() == [5, 0, 0, 6, 8]


@pytest.mark.parametrize("T", [256, 2048])
@pytest.mark.parametrize(("mean", "sigma"), [(500, 1.0), (240, 1.3)])
def test_rows_are_full_on_lengths_of_real_texts(
    T: int, mean: float, sigma: float
) -> None:
    # C4's documents have about 480 tokens on average, log-normal to a good fit.
    lengths = log_normal(20_000, mean, sigma)
    fit = first_fit(lengths, T, Index(None))
    for epoch in (0, None):
        assert lengths.sum() / (fit.rows(epoch) * T) >= 0.99


@pytest.mark.parametrize(("part", "number"), [(0, []), (2, [2])])
@pytest.mark.parametrize("seed", [7, 2**40])
def test_documents_are_shuffled_by_grain(
    seed: int, part: int, number: list[int]
) -> None:
    order = Order(1000, seed, part)
    (key,) = np.random.SeedSequence([seed, 3, *number]).generate_state(1)
    wanted = [index_shuffle(i, 999, int(key), 4) for i in range(200)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "index_shuffle", index_shuffle)
        assert order(3, 0, 150).tolist() + order(3, 150, 200).tolist() == wanted
    assert order(None, 5, 8).tolist() == [5, 6, 7]


def test_rows_of_long_documents_lie_among_the_others() -> None:
    lengths = log_normal(2000, 100, 1.0)
    fit = first_fit(lengths, 64, Index(None))
    pieces = fit.pieces(0, fit.rows(0), 0)
    whole = np.array([p.row for p in pieces if p.stop - p.start == 64])
    assert 0.45 < np.mean(whole) / fit.rows(0) < 0.55
    assert {p.document for p in pieces} == set(range(2000))


@quick
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(sum),
    st.integers(4, 12),
    st.integers(1, 8),
    st.sampled_from([None, 0, 1, 5]),
)
def test_a_window_of_rows_has_pieces_of_its_own_documents(
    sizes: list[int], T: int, window: int, epoch: int | None
) -> None:
    lengths = np.array(sizes, np.int64)
    order = Order(len(lengths), 3)
    fit = FirstFit(Lengths(lengths), order, T, window, Index(None))
    rows = fit.rows(epoch)
    pieces = fit.pieces(0, rows, epoch)
    seen = [(p.document, t) for p in pieces for t in range(p.start, p.stop)]
    assert sorted(seen) == [(d, t) for d, n in enumerate(sizes) for t in range(n)]
    for first in range(rows):  # the same, row by row
        (one, *_) = found = fit.pieces(first, first + 1, epoch)
        assert [p._replace(row=first) for p in found] == [
            p for p in pieces if p.row == first
        ]
        assert (one.column, one.segment) == (0, 1)
        for a, b in pairwise(found):
            assert b.column == a.column + a.stop - a.start
            assert b.segment == a.segment + 1
        assert found[-1].column + found[-1].stop - found[-1].start <= T
    # A window's documents come before the next one's.
    windows = -(-len(sizes) // window)
    bounds = [k * len(sizes) // windows for k in range(windows + 1)]
    where = {d: k for k, d in enumerate(order(epoch, 0, len(sizes)).tolist())}
    of_row = [np.searchsorted(bounds, where[p.document], "right") for p in pieces]
    assert of_row == sorted(of_row)
    if epoch is not None:
        for row in {0, rows - 1}:
            assert fit.locate(fit.before(epoch) + row) == (epoch, row)


def make(packing_: str, lengths: np.ndarray, folder: Path | None) -> Any:
    if packing_ == "concat":
        order = Order(len(lengths), 3)
        return Concat(Lengths(lengths), order, 64, Index(folder))
    return first_fit(lengths, 64, Index(folder), 100)


def everything(packing_: Any) -> list[tuple[int, ...]]:
    return [
        tuple(piece)
        for epoch in (0, 1, None)
        for piece in packing_.pieces(0, packing_.rows(epoch), epoch)
    ]


@pytest.mark.parametrize("kind", ["concat", "first_fit"])
def test_the_index_on_disk_is_that_in_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = log_normal(500, 60, 1.0)
    wanted = everything(make(kind, lengths, None))
    monkeypatch.setattr(packing, "_BLOCK", 64)  # several stretches
    assert everything(make(kind, lengths, tmp_path)) == wanted
    assert len([*tmp_path.iterdir()]) == 3  # tables, of two epochs and of none

    def refuse(*_: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr("llmjax.data.batches.index._write", refuse)
    assert everything(make(kind, lengths, tmp_path)) == wanted
    with pytest.raises(AssertionError, match="made again"):
        everything(make(kind, lengths[::-1].copy(), tmp_path))


@pytest.mark.parametrize("damage", ["bit", "cut", "lost", "account", "other"])
def test_a_damaged_index_is_made_again(damage: str, tmp_path: Path) -> None:
    lengths = log_normal(300, 60, 1.0)
    wanted = everything(make("first_fit", lengths, tmp_path))
    tables = [*tmp_path.iterdir()]
    if damage == "other":  # whole, but of another key
        for a, b in pairwise([*tables, tables[0]]):
            a.rename(b.with_suffix(".moved"))
        for table in tables:
            table.with_suffix(".moved").rename(table)
    for table in tables:
        column = table / "document"
        if damage == "bit":
            data = bytearray(column.read_bytes())
            data[8] ^= 1
            column.write_bytes(data)
        elif damage == "cut":
            column.write_bytes(column.read_bytes()[:-8])
        elif damage == "lost":
            column.unlink()
        elif damage == "account":
            (table / "account.json").write_text("{")
    assert everything(make("first_fit", lengths, tmp_path)) == wanted
    fresh = make("first_fit", lengths, tmp_path)
    assert everything(fresh) == wanted
    assert all(len([*t.iterdir()]) == 6 for t in tmp_path.iterdir())


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    index = Index(tmp_path)

    def half() -> Any:
        yield {"a": np.arange(3)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.table({"a": 1}, half)
    assert [*tmp_path.iterdir()] == []
    found = index.table({"a": 1}, lambda: [{"a": np.arange(3)}, {"a": np.arange(2)}])
    assert found["a"].tolist() == [0, 1, 2, 0, 1]


AT_ONCE = """
import sys
from pathlib import Path
import numpy as np
from llmjax.data.batches.packing import FirstFit, Index, Lengths, Order
lengths = Lengths(np.arange(3000) % 97)
fit = FirstFit(lengths, Order(3000, 3), 128, 1000, Index(Path(sys.argv[1])))
print("ready", flush=True)
input()
print(hash(tuple(fit.pieces(0, fit.rows(0), 0))))
"""


def test_two_processes_may_make_it_at_once(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    found = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert found[0] == found[1]
    (table,) = tmp_path.iterdir()
    assert not table.name.endswith(".partial")
