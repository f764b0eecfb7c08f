"""What a moved text looks like, how often texts are moved, and that nothing is lost."""

import dataclasses
import itertools

import numpy as np
import pytest

from llmjax.config import DataConfig, FillInTheMiddle, RunConfig
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks import registry
from llmjax.tasks.objectives.fill_in_the_middle import FillInTheMiddleTask

EOS, PRE, MID, SUF = 2, 39, 40, 41


def task(tiny, seq_len=64, **fields) -> FillInTheMiddleTask:
    model = dataclasses.replace(tiny, vocab_size=48)
    data = DataConfig(seq_len=seq_len, packing="chunk")
    run = RunConfig(model, FillInTheMiddle(**fields), data)
    return FillInTheMiddleTask(run, PlainVocabulary(38))


def numbered(length):
    return np.arange(length, dtype=np.int32) % 35 + 3


def restored(tokens: list[int]) -> list[int]:
    """The text that a moved one was, by either order; another as it is."""
    if PRE not in tokens:
        return tokens
    s, m = tokens.index(SUF), tokens.index(MID)
    assert tokens[0] == PRE and s < m
    return tokens[1:s] + tokens[m + 1 :] + tokens[s + 1 : m]


class Cuts(np.random.Generator):
    """It says where to cut, and which order to take."""

    def __init__(self, cuts, *uniform):
        super().__init__(np.random.PCG64(0))
        self.cuts, self.uniform = cuts, list(uniform)

    def integers(self, low, high, size):
        assert (low, high, size) == (0, 7, 2)  # before the first token … after the last
        return np.array(self.cuts)

    def random(self):
        return self.uniform.pop(0)


@pytest.mark.parametrize(
    ("cuts", "spm", "wanted"),
    [
        ([4, 1], 0.9, [PRE, 3, SUF, 7, 8, MID, 4, 5, 6]),
        ([1, 4], 0.1, [PRE, SUF, 7, 8, MID, 3, 4, 5, 6]),
        ([0, 6], 0.9, [PRE, SUF, MID, 3, 4, 5, 6, 7, 8]),
        ([6, 6], 0.1, [PRE, SUF, MID, 3, 4, 5, 6, 7, 8]),
    ],
    ids=["PSM", "SPM", "all is middle", "all is prefix"],
)
def test_the_two_orders(cuts, spm, wanted, tiny):
    """The paper's eq. PSM, and of appendix D the second variant."""
    bound = task(tiny, rate=1.0)
    row = bound.features({"tokens": numbered(6)}, Cuts(cuts, 0.5, spm))
    assert row["tokens"].tolist() == [1, *wanted]
    assert row["targets"].tolist() == [*wanted, EOS]
    kept = [int(t < 38 and t > 2) for t in row["targets"]]
    assert row["num_bytes"].tolist() == kept  # sentinels stand for no text
    assert "weights" not in row  # and everything is predicted


def test_documents_of_a_row_are_moved_one_by_one(tiny):
    rng, bound = np.random.default_rng(0), task(tiny, seq_len=200)
    documents = [numbered(n).tolist() for n in (9, 1, 30, 17)]
    ends = itertools.chain.from_iterable([*d, EOS] for d in documents)
    chunk = {"tokens": np.array(list(ends)[:-1], np.int32)}
    moved = 0
    for _ in range(500):
        row = bound.features(chunk, rng)
        assert row["tokens"][1:].tolist() == row["targets"][:-1].tolist()
        whole = [*row["tokens"][1:].tolist(), EOS]
        groups = itertools.groupby(whole, EOS.__eq__)
        parts = [list(g) for is_end, g in groups if not is_end]
        assert [restored(part) for part in parts] == documents
        moved += sum(PRE in part for part in parts)
    # 2000 documents, one in two: within five standard errors
    assert abs(moved / 2000 - 0.5) < 5 * 0.5 / 2000**0.5


def test_rate_and_orders_by_counting(tiny):
    n, draws, rng = 50, 6000, np.random.default_rng(1)
    bound = task(tiny, rate=0.7, spm_rate=0.3)
    text = {"tokens": numbered(n)}
    rows = [bound.features(text, rng)["tokens"].tolist() for _ in range(draws)]
    moved = [row for row in rows if PRE in row]
    assert abs(len(moved) / draws - 0.7) < 5 * (0.7 * 0.3 / draws) ** 0.5
    suffix_first = sum(row[2] == SUF for row in moved) / len(moved)
    empty = 1 - (n / (n + 1)) ** 2  # PSM whose prefix is empty looks the same
    wanted = 0.3 + 0.7 * empty
    error = (wanted * (1 - wanted) / len(moved)) ** 0.5
    assert abs(suffix_first - wanted) < 5 * error


def test_any_two_places_are_as_likely_cut(tiny):
    n, draws, rng = 5, 8000, np.random.default_rng(2)
    bound = task(tiny, rate=1.0, spm_rate=0.0)
    counts: dict[tuple[int, int], int] = {}
    for _ in range(draws):
        row = bound.features({"tokens": numbered(n)}, rng)["tokens"].tolist()
        s, m = row.index(SUF), row.index(MID)
        lengths = s - 2, len(row) - m - 1
        counts[lengths] = counts.get(lengths, 0) + 1
    wanted: dict[tuple[int, int], float] = {}
    for a, b in itertools.product(range(n + 1), repeat=2):
        lengths = min(a, b), abs(a - b)
        wanted[lengths] = wanted.get(lengths, 0) + 1 / (n + 1) ** 2
    assert counts.keys() == wanted.keys()
    for lengths, p in wanted.items():
        error = (p * (1 - p) / draws) ** 0.5
        assert abs(counts[lengths] / draws - p) < 5 * error


def test_a_row_is_full_and_never_more(tiny):
    bound = task(tiny, seq_len=32, rate=1.0)
    assert bound.text_length == 28 == 32 - bound.length(0)
    one = bound.features({"tokens": numbered(28)}, np.random.default_rng(0))
    assert len(one["tokens"]) == 32 and one["targets"][-1] == EOS
    many = numbered(28)
    many[[4, 11, 20]] = EOS
    row = bound.features({"tokens": many}, np.random.default_rng(0))
    assert len(row["tokens"]) == len(row["targets"]) == len(row["num_bytes"]) == 32
    assert row["targets"][-1] not in (EOS, PRE)  # trimmed, not ended
    ends = bound.features(
        {"tokens": np.array([EOS, 5, EOS], np.int32)}, np.random.default_rng(0)
    )
    assert ends["tokens"].tolist().count(EOS) == 2 and ends["tokens"][1] == EOS


def test_rows_are_a_function_of_their_rng(tiny):
    def rows(epoch):
        bound = task(tiny)
        keys = [[0, epoch, i] for i in range(10)]
        text = {"tokens": numbered(40)}
        return [
            bound.features(text, np.random.default_rng(key))["tokens"].tolist()
            for key in keys
        ]

    assert rows(0) == rows(0) != rows(1)


def test_a_packing_that_counts_on_lengths_is_refused(tiny, monkeypatch):
    monkeypatch.setitem(registry.TASKS, FillInTheMiddle, FillInTheMiddleTask)
    model = dataclasses.replace(tiny, vocab_size=48)
    run = RunConfig(model, FillInTheMiddle())
    with pytest.raises(ValueError, match="needs data.packing='chunk' or 'pad', not"):
        registry.make_task(run, PlainVocabulary(38))
    chunks = dataclasses.replace(run, data=DataConfig(packing="chunk"))
    assert registry.make_task(chunks, PlainVocabulary(38)).specials
    with pytest.raises(ValueError, match="less than the 42 ids of the tokenizer with"):
        registry.make_task(dataclasses.replace(chunks, model=tiny), PlainVocabulary(38))
