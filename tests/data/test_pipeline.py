"""The global batch is a function of (seed, step), whoever asks and however."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import DataConfig
from llmjax.data import tokens
from llmjax.data.pipeline import Batch, Pipeline

lengths = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(sum)
packings = st.sampled_from(["concat", "pad"])
quick = settings(deadline=None, max_examples=20)


def source_of(sizes: list[int]) -> tokens.TokenSource:
    """Every token of it is another one, and none is 0."""
    ends = np.cumsum(sizes)
    documents = [np.arange(e - n, e) + 1 for e, n in zip(ends, sizes, strict=True)]
    return tokens.from_documents(documents, range(len(sizes)))


def features(example: dict[str, Any], rng: np.random.Generator) -> Batch:
    noise = rng.integers(0, 1000, len(example["tokens"]))
    return {"tokens": example["tokens"], "noise": noise}


def with_label(example: dict[str, Any], rng: np.random.Generator) -> Batch:
    return {"tokens": example["tokens"], "label": example["label"]}


def pipeline(sizes: list[int], **data: Any) -> Pipeline:
    given_ = {"batch_size": 4, "seq_len": 5, **data}
    return Pipeline(source_of(sizes), features, DataConfig(**given_))


def assert_same(a: Batch, b: Batch) -> None:
    assert a.keys() == b.keys()
    for k in a:
        assert a[k].dtype == b[k].dtype
        np.testing.assert_array_equal(a[k], b[k])


def shown(batches: list[Batch]) -> list[int]:
    out = [b["tokens"][b["segment_ids"] > 0] for b in batches]
    return np.concatenate(out).tolist()


@quick
@given(lengths, packings, st.integers(0, 30), st.sampled_from([1, 2, 4]))
def test_hosts_together_hold_the_global_batch(
    sizes: list[int], packing: str, step: int, hosts: int
) -> None:
    p = pipeline(sizes, packing=packing)
    parts = [p.batch(step, h, hosts) for h in range(hosts)]
    assert_same(
        {k: np.concatenate([part[k] for part in parts]) for k in parts[0]},
        p.batch(step),
    )
    evaluations = [[*p.evaluation(h, hosts)] for h in range(hosts)]
    for k, whole in enumerate(p.evaluation()):
        mine = [e[k] for e in evaluations]
        assert_same({n: np.concatenate([m[n] for m in mine]) for n in whole}, whole)


@quick
@given(lengths, packings)
def test_a_step_is_the_same_however_one_got_there(
    sizes: list[int], packing: str
) -> None:
    p = pipeline(sizes, packing=packing)
    wanted = [p.batch(step) for step in range(8)]
    fresh = pipeline(sizes, packing=packing)
    for step in (7, 2, 5, 2):
        assert_same(fresh.batch(step), wanted[step])


@quick
@given(lengths, st.integers(0, 3), st.integers(1, 3))
def test_an_epoch_shows_every_token_once(
    sizes: list[int], epoch: int, batch_size: int
) -> None:
    p = pipeline(sizes, batch_size=batch_size)
    R = p.rows_per_epoch
    assert -(-sum(sizes) // 5) == R
    one_row = pipeline(sizes, batch_size=1)
    rows = [one_row.batch(epoch * R + r) for r in range(R)]
    assert sorted(shown(rows)) == list(range(1, sum(sizes) + 1))
    # The same rows, cut into batches that need not divide the epoch.
    all_rows = np.concatenate([p.batch(s)["tokens"] for s in range(2 * R)])
    for r in range(2 * R):
        np.testing.assert_array_equal(
            one_row.batch(r)["tokens"][0], all_rows[r], strict=True
        )


@quick
@given(lengths, packings, st.integers(0, 9))
def test_segments_are_documents_and_positions_restart(
    sizes: list[int], packing: str, step: int
) -> None:
    p = pipeline(sizes, packing=packing)
    batch = p.batch(step)
    first = np.cumsum(sizes) - sizes + 1
    for row in range(4):
        seen = batch["segment_ids"][row]
        used = seen[seen > 0]
        assert np.all(seen[len(used) :] == 0)  # padding only at the end
        assert np.all(batch["tokens"][row, len(used) :] == 0)
        count = used.max(initial=0)
        assert sorted(set(used.tolist())) == [*range(1, count + 1)]
        for segment in range(1, count + 1):
            here = seen == segment
            n = here.sum()
            ids = batch["tokens"][row, here]
            np.testing.assert_array_equal(ids, np.arange(n) + ids[0])
            document = np.searchsorted(first, ids, "right") - 1
            assert len(set(document.tolist())) == 1
            np.testing.assert_array_equal(batch["positions"][row, here], np.arange(n))


@quick
@given(lengths, packings)
def test_evaluation_shows_everything_once_in_order(
    sizes: list[int], packing: str
) -> None:
    p = pipeline(sizes, packing=packing, batch_size=3)
    batches = [*p.evaluation()]
    assert len(batches) == p.eval_batches
    assert {b["tokens"].shape for b in batches} == {(3, 5)}
    cut = 5 if packing == "pad" else 12
    wanted = [t for d in source_of(sizes) for t in d["tokens"][:cut].tolist()]
    assert shown(batches) == wanted
    if packing == "pad":
        valid = np.concatenate([b["valid"] for b in batches])
        assert valid.tolist() == [1] * len(sizes) + [0] * (len(valid) - len(sizes))
    assert len([*p.evaluation(max_batches=1)]) == 1


def test_pad_visits_every_document_once_an_epoch_with_its_scalars() -> None:
    data = DataConfig(batch_size=2, seq_len=4, packing="pad")
    p = Pipeline(source_of([3, 0, 6, 1]), with_label, data)
    for epoch in range(3):
        batches = [p.batch(2 * epoch), p.batch(2 * epoch + 1)]
        labels = np.concatenate([b["label"] for b in batches])
        assert labels.dtype == np.int32
        assert Counter(labels.tolist()) == Counter(range(4))
        rows = {
            int(label): int((segments > 0).sum())
            for b in batches
            for label, segments in zip(b["label"], b["segment_ids"], strict=True)
        }
        assert rows == {0: 3, 1: 0, 2: 4, 3: 1}


@pytest.mark.parametrize("packing", ["concat", "pad"])
def test_seeds_and_epochs_differ_in_order_and_in_randomness(packing: Any) -> None:
    sizes = [5] * 40
    p = pipeline(sizes, packing=packing, batch_size=40)
    q = pipeline(sizes, packing=packing, batch_size=40, shuffle_seed=1)
    a, b, c = p.batch(0), p.batch(1), q.batch(0)
    for other in (b, c):
        assert not np.array_equal(a["tokens"], other["tokens"])
        assert sorted(shown([a])) == sorted(shown([other]))
        by_token = [
            dict(zip(x["tokens"].ravel(), x["noise"].ravel(), strict=True))
            for x in (a, other)
        ]
        assert by_token[0] != by_token[1]


def test_length_foretells_features_that_add_tokens() -> None:
    def framed(example: dict[str, Any], rng: np.random.Generator) -> Batch:
        return {"tokens": np.concatenate([[98], example["tokens"], [99]])}

    data = DataConfig(batch_size=1, seq_len=4)
    p = Pipeline(source_of([1, 0, 3]), framed, data, length=lambda n: n + 2)
    assert shown([*p.evaluation()]) == [98, 1, 99, 98, 99, 98, 2, 3, 4, 99]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_prefetch_gives_the_same_batches_with_their_steps(prefetch: int) -> None:
    p = pipeline([7, 3, 9, 2], prefetch=prefetch)
    found = [*p.prefetch(3, 9, 1, 2)]
    assert [step for step, _ in found] == [*range(3, 9)]
    for step, batch in found:
        assert_same(batch, p.batch(step, 1, 2))
    assert [*p.prefetch(3, 3)] == []


def test_mistakes_are_named() -> None:
    p = pipeline([3, 4])
    for ask in (lambda: p.batch(0, 0, 3), lambda: p.evaluation(0, 3)):
        with pytest.raises(ValueError, match=r"batch_size=4.*3 processes"):
            ask()
    with pytest.raises(ValueError, match="3 processes"):
        p.prefetch(0, 1, 0, 3)
    with pytest.raises(ValueError, match="process_index=2"):
        p.batch(0, 2, 2)
    with pytest.raises(ValueError, match="no tokens"):
        pipeline([0, 0])
    data = DataConfig(batch_size=1, seq_len=4)
    with pytest.raises(ValueError, match=r"label.*packing='pad'"):
        Pipeline(source_of([3]), with_label, data)
    with pytest.raises(ValueError, match=r"'tokens'.*\(3,\).*\[4\]"):
        Pipeline(source_of([3]), features, data, length=lambda n: n + 1)
    pad = dataclasses.replace(data, packing="pad")
    with pytest.raises(ValueError, match="'valid' is the pipeline's own"):
        Pipeline(source_of([3]), lambda e, r: {"valid": e["tokens"]}, pad)
