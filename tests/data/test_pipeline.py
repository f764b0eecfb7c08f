"""The global batch is a function of (seed, step), whoever asks and however."""

import dataclasses
import functools
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grain.experimental import index_shuffle
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.config import DataConfig, Explicit, Proportional, Stage, Temperature
from llmjax.data.batches import packing as packing_lib
from llmjax.data.batches import rows as rows_lib
from llmjax.data.batches.pipeline import Batch, Part, Pipeline
from llmjax.data.batches.streams import PACKED, Feature
from llmjax.data.store import tokens

pytestmark = pytest.mark.usefixtures("quick_shuffle")
HOSTS = (1, 2, 3, 4, 8)
T = 6
PACKINGS = ("concat", "first_fit", "chunk", "pad")
packings = st.sampled_from(PACKINGS)
lengths = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(sum)
quick = settings(deadline=None, max_examples=15)


def source_of(sizes: list[int], first: int = 1) -> tokens.TokenSource:
    """Every token of it is another one, from `first` on."""
    ends = np.cumsum(sizes) + first
    documents = [np.arange(e - n, e) for e, n in zip(ends, sizes, strict=True)]
    return tokens.from_documents(documents, range(len(sizes)))


def features(example: dict[str, Any], rng: np.random.Generator) -> Batch:
    noise = rng.integers(0, 1000, len(example["tokens"]))
    return {"tokens": example["tokens"], "noise": noise}


def with_label(example: dict[str, Any], rng: np.random.Generator) -> Batch:
    return {"tokens": example["tokens"], "label": example["label"]}


def two_texts(example: dict[str, Any], rng: np.random.Generator) -> Batch:
    text = example["tokens"]
    half = len(text) // 2
    return {
        "encoder_tokens": text[:half],
        "encoder_weights": np.ones(half, np.float32),
        "tokens": text[half:],
        "label": example["label"],
    }


def data(**fields: Any) -> DataConfig:
    return DataConfig(**{"batch_size": 24, "seq_len": T, **fields})


def pipeline(sizes: list[int], **fields: Any) -> Pipeline:
    given_ = {"batch_size": 4, "seq_len": 5, **fields}
    return Pipeline(source_of(sizes), features, DataConfig(**given_))


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Documents' sizes of each part, and how they are mixed."""

    sizes: list[list[int]]
    weights: list[float]
    fields: dict[str, Any]

    @functools.cached_property
    def config(self) -> DataConfig:
        return data(**self.fields)

    def make(self) -> Pipeline:
        parts = [
            Part(f"part {k}", source_of(sizes, 1000 * k + 1), features, None, weight)
            for k, (sizes, weight) in enumerate(
                zip(self.sizes, self.weights, strict=False)
            )
        ]
        return Pipeline.of(parts, self.config)

    def shown(self, k: int) -> list[int]:
        """The tokens of part `k` that an epoch shows, in the documents' order."""
        cut = T if self.config.packing in ("chunk", "pad") else None
        source = source_of(self.sizes[k], 1000 * k + 1)
        return [t for document in source for t in document["tokens"][:cut].tolist()]


@st.composite
def mixtures(draw: Any) -> Mixed:
    packing = draw(packings)
    ramps = (Stage(0, 24), Stage(2, 48)), (Stage(0, 72), Stage(1, 24), Stage(3, 48)), ()
    lens = (), (Stage(0, 2), Stage(1, 3), Stage(3, T)), (Stage(0, 1), Stage(2, T))
    ramp = draw(st.sampled_from(ramps))
    weightings = Explicit(), Proportional(), Temperature(3.0)
    fields = {
        "packing": packing,
        "window": draw(st.integers(1, 9)),
        "shuffle_seed": draw(st.integers(0, 2**32 - 1)),
        "weighting": draw(st.sampled_from(weightings)),
        "batch_size": 48 if ramp else 24,
        "batch_sizes": ramp,
        "seq_lens": draw(st.sampled_from(lens)) if packing in PACKED else (),
    }
    sizes = draw(st.lists(lengths, min_size=1, max_size=3))
    return Mixed(sizes, draw(st.permutations([1.0, 0.3, 2.5])), fields)


def assert_same(a: Batch, b: Batch) -> None:
    assert a.keys() == b.keys()
    for k in a:
        assert a[k].dtype == b[k].dtype
        np.testing.assert_array_equal(a[k], b[k])


def joined(batches: list[Batch]) -> Batch:
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def shown(batches: list[Batch]) -> list[int]:
    out = [b["tokens"][b["segment_ids"] > 0] for b in batches]
    return np.concatenate(out).tolist()


def by_row(batch: Batch) -> list[list[int]]:
    return [
        row[segments > 0].tolist()
        for row, segments in zip(batch["tokens"], batch["segment_ids"], strict=True)
    ]


@quick
@given(mixtures(), st.permutations(HOSTS))
def test_no_number_of_hosts_and_no_resumption_changes_a_batch(
    mixed: Mixed, hosts: list[int]
) -> None:
    p = mixed.make()
    whole = [p.batch(step) for step in range(5)]
    resumed = mixed.make()  # at each step by another number of hosts, out of order
    for step in (3, 1, 4, 0, 2):
        n = hosts[step]
        assert_same(joined([resumed.batch(step, h, n) for h in range(n)]), whole[step])
    n = hosts[0]
    evaluations = [[*p.evaluation(h, n)] for h in range(n)]
    for mine, wanted in zip(
        zip(*evaluations, strict=True), p.evaluation(), strict=True
    ):
        assert_same(joined([*mine]), wanted)


@quick
@given(mixtures())
def test_every_epoch_of_every_part_shows_every_token_once(mixed: Mixed) -> None:
    p = mixed.make()
    rows = [row for step in range(5) for row in by_row(p.batch(step))]
    for k in range(len(mixed.sizes)):
        mine = [t for row in rows for t in row if t // 1000 == k]
        wanted = sorted(mixed.shown(k))
        for at in range(0, len(mine), len(wanted)):
            epoch = mine[at : at + len(wanted)]
            if at + len(wanted) <= len(mine):
                assert sorted(epoch) == wanted
            else:  # the last one may be half
                assert len(set(epoch)) == len(epoch)


@quick
@given(mixtures())
def test_evaluation_shows_everything_once_a_part_after_the_other(mixed: Mixed) -> None:
    p = mixed.make()
    batches = [*p.evaluation()]
    assert len(batches) == p.eval_batches
    assert {b["tokens"].shape for b in batches} == {(mixed.config.batch_size, T)}
    found = shown(batches)
    wanted = [t for k in range(len(mixed.sizes)) for t in mixed.shown(k)]
    if mixed.config.packing == "first_fit":
        assert [t // 1000 for t in found] == [t // 1000 for t in wanted]
        found, wanted = sorted(found), sorted(wanted)
    assert found == wanted
    if "valid" in batches[0]:
        valid = joined(batches)["valid"].tolist()
        count = sum(map(len, mixed.sizes))
        assert valid == [1] * count + [0] * (len(valid) - count)
    assert len([*p.evaluation(max_batches=1)]) == 1


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


@pytest.mark.parametrize("packing", ["concat", "first_fit"])
def test_a_curriculum_cuts_the_same_rows(packing: Any) -> None:
    sizes = [7, 3, 11, 1, 4, 9]
    plain = pipeline(sizes, packing=packing, seq_len=6)
    lens = (Stage(0, 2), Stage(2, 3), Stage(3, 6))
    p = pipeline(sizes, packing=packing, seq_len=6, seq_lens=lens)
    for step, t in enumerate([2, 2, 3, 6, 6]):
        batch, wanted = p.batch(step), plain.batch(step)
        for k in ("tokens", "noise"):
            np.testing.assert_array_equal(batch[k], wanted[k].reshape(-1, t))
        for row in range(len(batch["tokens"])):
            segments = batch["segment_ids"][row]
            changes = np.flatnonzero(np.diff(segments, prepend=0))
            assert segments[changes][segments[changes] > 0].tolist() == [
                *range(1, segments.max(initial=0) + 1)
            ]
            starts = batch["positions"][row, changes]
            assert starts.tolist() == [0] * len(changes)
    # A ramp shows the same rows, more of them at a time.
    ramp = pipeline(
        sizes, packing=packing, seq_len=6, batch_sizes=(Stage(0, 1), Stage(2, 4))
    )
    found = joined([ramp.batch(step) for step in range(4)])
    wanted = joined([plain.batch(step) for step in range(3)])
    assert_same(found, {k: v[:10] for k, v in wanted.items()})


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_part_has_randomness_of_its_own_and_a_single_one_its_key(seed: int) -> None:
    sizes = [5] * 8
    p = pipeline(sizes, packing="pad", batch_size=8, shuffle_seed=seed)
    for step in range(2):
        batch = p.batch(step)
        for row, noise in zip(batch["tokens"], batch["noise"], strict=True):
            index = (int(row[0]) - 1) // 5
            rng = np.random.default_rng([seed, step + 1, index])
            np.testing.assert_array_equal(noise, rng.integers(0, 1000, 5))
    both = Pipeline.of(
        [Part(name, source_of(sizes), features) for name in ("a", "b")],
        DataConfig(batch_size=16, seq_len=5, packing="pad"),
    )
    batch = both.batch(0)
    (one, two) = (
        {int(r[0]): n.tolist() for r, n in zip(rows, noise, strict=True)}
        for rows, noise in (
            (batch["tokens"][::2], batch["noise"][::2]),
            (batch["tokens"][1::2], batch["noise"][1::2]),
        )
    )
    assert one.keys() == two.keys()
    assert [*one] != [*two]
    assert all(one[k] != two[k] for k in one)


def test_pad_visits_every_document_once_an_epoch_with_its_scalars() -> None:
    p = Pipeline(
        source_of([3, 0, 6, 1]),
        with_label,
        data(batch_size=2, seq_len=4, packing="pad"),
    )
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


@pytest.mark.parametrize("packing", PACKINGS)
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


def test_length_predicts_features_that_add_tokens() -> None:
    def framed(example: dict[str, Any], rng: np.random.Generator) -> Batch:
        return {"tokens": np.concatenate([[98], example["tokens"], [99]])}

    p = Pipeline(
        source_of([1, 0, 3]), framed, data(batch_size=1, seq_len=4), lambda n: n + 2
    )
    assert shown([*p.evaluation()]) == [98, 1, 99, 98, 99, 98, 2, 3, 4, 99]


@pytest.mark.parametrize("packing", ["chunk", "pad"])
def test_a_stream_has_its_own_room_segments_and_positions(packing: Any) -> None:
    config = data(batch_size=2, seq_len=4, encoder_seq_len=3, packing=packing)
    p = Pipeline(source_of([5, 2]), two_texts, config)
    (batch,) = p.evaluation()
    assert batch["encoder_tokens"].tolist() == [[1, 2, 0], [6, 0, 0]]
    assert batch["encoder_weights"].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert batch["encoder_segment_ids"].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert batch["encoder_positions"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert batch["tokens"].tolist() == [[3, 4, 5, 0], [7, 0, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0], [0, 0, 0, 0]]
    assert batch["label"].tolist() == [0, 1]
    assert batch["encoder_segment_ids"].dtype == np.int32


SHAPES = {"boxes": Feature(shape=(3,)), "corners": Feature("segment", shape=(2, 2))}


def with_shapes(example: dict[str, Any], rng: np.random.Generator) -> Batch:
    """Of every token and of the document arrays that only they can have."""
    tokens, label = example["tokens"], example["label"]
    boxes = tokens[:, None] * np.array([1, 2, 3], np.float32)
    return {
        "tokens": tokens,
        "boxes": boxes,
        "label": label,
        "corners": int(label) + np.array([[0, 0.5], [0.25, 0.75]]),
    }


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, T), min_size=1, max_size=30),
    st.sampled_from(["first_fit", "pad"]),
    st.integers(1, 9),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(0, 4),
)
def test_each_segment_has_its_documents_values(
    sizes: list[int], packing: Any, window: int, most: int | None, step: int
) -> None:
    most = most if packing == "first_fit" else None
    config = data(packing=packing, window=window, max_segments=most)
    p = Pipeline(source_of(sizes), with_shapes, config, declared=SHAPES)
    first = np.cumsum(sizes) - sizes + 1
    for batch in (p.batch(step), joined([*p.evaluation()])):
        rows = len(batch["tokens"])
        # A row of pad is one segment.
        valid = batch["valid"].reshape(rows, -1)
        label = batch["label"].reshape(rows, -1)
        corners = batch["corners"].reshape(rows, -1, 2, 2)
        G = valid.shape[1]
        assert G == 1 if packing == "pad" else G == (most or G) <= T
        assert batch["boxes"].shape == (rows, T, 3)
        for row, g in np.ndindex(rows, G):
            here = batch["segment_ids"][row] == g + 1
            assert bool(valid[row, g]) == here.any()
            ids = batch["tokens"][row][here]
            if not len(ids):
                assert not label[row, g] and not corners[row, g].any()
                continue
            document = int(np.searchsorted(first, ids[0], "right")) - 1
            assert len(ids) == sizes[document]
            assert label[row, g] == document
            assert np.array_equal(
                corners[row, g], document + np.array([[0, 0.5], [0.25, 0.75]])
            )
            boxes = batch["boxes"][row][here]
            np.testing.assert_array_equal(boxes, ids[:, None] * [1, 2, 3])
        assert batch["segment_ids"].max() <= G
    shown_labels = joined([*p.evaluation()])
    labels = shown_labels["label"][shown_labels["valid"] > 0].tolist()
    assert sorted(labels) == [*range(len(sizes))]


def test_the_most_segments_of_a_row_are_the_same_everywhere() -> None:
    sizes = [1, 1, 1, 6, 6, 6, 5]
    config = data(batch_size=2, packing="first_fit", window=2)
    parts = [
        Part("short", source_of(sizes), with_label),
        Part("long", source_of([4] * 9, 1000), with_label),
    ]
    p = Pipeline.of(parts, config)
    shapes = {p.batch(step, h, 2)["label"].shape for step in range(9) for h in (0, 1)}
    assert shapes == {(1, 3)}  # 1 + 1 + 1 + 5 > T
    assert next(iter(p.evaluation()))["valid"].shape == (2, 3)
    without = Pipeline.of([dataclasses.replace(parts[0], features=features)], config)
    assert "valid" not in without.batch(0)


def test_a_declared_stream_has_its_own_name_length_and_shape() -> None:
    patches = Feature(stream="image", shape=(2,), dtype=np.float32, room=3)

    def of(e: dict[str, Any], _: Any) -> Batch:
        count = int(e["label"]) + 1
        return {"tokens": e["tokens"], "patches": np.ones((count, 2), np.float32)}

    config = data(batch_size=2, seq_len=4, packing="pad")
    p = Pipeline(source_of([4, 1]), of, config, declared={"patches": patches})
    (batch,) = p.evaluation()
    assert batch["patches"].shape == (2, 3, 2) and batch["tokens"].shape == (2, 4)
    assert batch["patches"][..., 0].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert batch["image_segment_ids"].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert batch["image_positions"].tolist() == [[0, 0, 0], [0, 1, 0]]
    for wrong, message in (
        (Feature(stream="image", shape=(3,)), r"is float32\[n, 2\] of the stream 'ima"),
        (Feature("segment"), r"'patches' is float32\[1, 2\] and float32; accepted"),
        (
            dataclasses.replace(patches, dtype=np.int32),
            r"and int32\[n, 2\] of the stre",
        ),
    ):
        with pytest.raises(ValueError, match=f"example 0 of data.source.*{message}"):
            Pipeline(source_of([4, 1]), of, config, declared={"patches": wrong})
    with pytest.raises(ValueError, match="'boxes' is declared, and the first example"):
        Pipeline(source_of([4]), features, config, declared=SHAPES)
    two = {"patches": patches, "tokens": Feature(stream="image", room=9)}
    with pytest.raises(ValueError, match=r"tokens, patches.*'image'.*rooms 3, 9"):
        Pipeline(source_of([4]), of, config, declared=two)
    with pytest.raises(ValueError, match="room=3.*seq_len"):
        Feature(room=3)
    with pytest.raises(ValueError, match="per segment has stream='image'"):
        Feature("segment", "image")


def test_a_bounded_source_runs_dry_by_name_and_before_training() -> None:
    def of(max_epochs: float | None, packing: str = "pad") -> Pipeline:
        config = data(batch_size=4, seq_len=T, packing=packing)
        parts = [
            Part("wide", source_of([6] * 50), features),
            Part("narrow", source_of([6] * 10), features, None, 1.0, max_epochs),
        ]
        return Pipeline.of(parts, config)

    for kind in PACKINGS:
        of(None, kind).check(10**6)
        p = of(2.0, kind)
        p.check(10)
        p.batch(9)
        told = "narrow runs dry: it has 20 rows.*max_epochs=2, and 11 steps ask for 22 "
        with pytest.raises(ValueError, match=f"{told}.*train.steps to 10 or fewer"):
            p.check(11)
        with pytest.raises(ValueError, match="narrow runs dry"):
            p.batch(10)
    with pytest.raises(ValueError, match=r"has 15 rows.*max_epochs=1\.5.*to 7 or"):
        of(1.5).check(8)
    # Nothing of it is left out.
    rows = [row for step in range(10) for row in by_row(of(2.0).batch(step))]
    narrow = Counter(row[0] for row in rows[1::2])
    assert sorted(narrow.values()) == [2] * 10


def test_a_part_of_weight_zero_is_not_there() -> None:
    absent = Part("absent", source_of([]), features, None, 0.0)
    there = Part("there", source_of([3, 4], 101), features)
    p = Pipeline.of([absent, there], data(batch_size=2, packing="pad"))
    assert set(shown([p.batch(0), *p.evaluation()])) == set(range(101, 108))
    with pytest.raises(ValueError, match=r"weights of the sources are \[0\.0\]"):
        Pipeline.of([absent], data())


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_prefetch_gives_the_same_batches_with_their_steps(prefetch: int) -> None:
    p = pipeline([7, 3, 9, 2], prefetch=prefetch)
    found = [*p.prefetch(3, 9, 1, 2)]
    assert [step for step, _ in found] == [*range(3, 9)]
    for step, batch in found:
        assert_same(batch, p.batch(step, 1, 2))
    assert [*p.prefetch(3, 3)] == []


def test_processes_make_the_same_batches() -> None:
    p = Pipeline.of(
        [Part(n, source_of([7, 3, 9, 2]), features) for n in ("a", "b")],
        data(batch_size=4, packing="first_fit", prefetch_processes=2),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            packing_lib, "index_shuffle", index_shuffle
        )  # as in the processes
        batches = [p.batch(step) for step in range(1, 6)]
    ahead = p.prefetch(1, 50)
    for wanted, expected in enumerate(batches, 1):
        step, batch = next(ahead)
        assert step == wanted
        assert_same(batch, expected)
    ahead.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("bucket", [False, True])
def test_the_index_of_a_large_source_lies_on_disk(
    bucket: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Part(n, source_of([7, 3, 9, 2]), features) for n in ("a", "b")]
    config = data(packing="first_fit", directory=str(tmp_path))
    wanted = Pipeline.of(parts, config).batch(1)
    assert [*tmp_path.iterdir()] == []
    monkeypatch.setattr(rows_lib, "SMALL", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = "gs://bucket/index" if bucket else None
    assert_same(Pipeline.of(parts, config, place).batch(1), wanted)
    folder = tmp_path / (".cache/llmjax/index" if bucket else "index")
    assert len([*folder.glob("*/account.json")]) >= 2


def test_mistakes_are_named() -> None:
    p = pipeline([3, 4])
    for ask in (lambda: p.batch(0, 0, 3), lambda: p.evaluation(0, 3)):
        with pytest.raises(ValueError, match=r"batch_size=4.*3 processes"):
            ask()
    ramp = pipeline([3, 4], batch_sizes=(Stage(0, 3), Stage(5, 4)))
    with pytest.raises(ValueError, match=r"batch_size=3.*2 processes.*batch_sizes"):
        ramp.prefetch(0, 1, 0, 2)
    with pytest.raises(ValueError, match="process_index=2"):
        p.batch(0, 2, 2)
    with pytest.raises(ValueError, match=r"data\.source.*2 documents.*no tokens"):
        pipeline([0, 0])
    config = data(batch_size=1, seq_len=4)
    with pytest.raises(ValueError, match=r"'tokens'.*\(3,\).*\[4\]"):
        Pipeline(source_of([3]), features, config, length=lambda n: n + 1)


def test_an_empty_document_with_a_value_of_its_own_is_named() -> None:
    """First-fit has no place for it: an evaluation would leave it out."""
    config = data(batch_size=2, packing="first_fit")
    with pytest.raises(ValueError, match=r"document 1 of data\.source has no tokens"):
        Pipeline(source_of([3, 0, 2]), with_label, config)
    padded = Pipeline(source_of([3, 0, 2]), with_label, data(packing="pad"))
    assert joined([*padded.evaluation()])["valid"].sum() == 3


def test_features_that_do_not_fit_are_named() -> None:
    def made(change: Any, packing: str = "pad", sizes: Any = (3, 4)) -> Pipeline:
        config = data(batch_size=2, seq_len=4, packing=packing)
        return Pipeline(source_of([*sizes]), lambda e, _: change(e), config)

    with pytest.raises(ValueError, match=r"label.*'concat' cuts.*packing='first_fit'"):
        made(lambda e: with_label(e, None), "concat")
    long = r"document 1 of data\.source has 9 tokens and a row 4.*label.*Clipped"
    with pytest.raises(ValueError, match=long):
        made(lambda e: with_label(e, None), "first_fit", (3, 9))
    for packing in ("concat", "first_fit"):
        with pytest.raises(ValueError, match=rf"2 texts.*'{packing}' fits one"):
            made(lambda e: {"tokens": e["tokens"], "other_x": e["tokens"]}, packing)
    for own in ("valid", "positions", "encoder_segment_ids"):
        with pytest.raises(ValueError, match=f"'{own}' is the pipeline's own"):
            made(
                lambda e, own=own: {
                    "encoder_a": e["tokens"],
                    own: e["tokens"],
                    "b": e["tokens"],
                }
            )
    with pytest.raises(ValueError, match=r"'a' has the shape \(1, 4\).*`Feature`"):
        made(lambda e: {"a": e["tokens"][None]})
    lens = (Stage(0, 2), Stage(1, 4))
    cut = data(batch_size=2, seq_len=4, packing="first_fit", seq_lens=lens)
    with pytest.raises(ValueError, match=r"label.*set data\.seq_lens=\(\)"):
        Pipeline(source_of([3, 4]), with_label, cut)
    with pytest.raises(
        ValueError, match=r"example 0 .*source.*'b'.*\(2,\).*\[3\].*'a'"
    ):
        made(lambda e: {"a": e["tokens"], "b": e["tokens"][1:]}, sizes=[3])
    two = made(lambda e: {"a": e["tokens"], "other_b": e["tokens"][:1]}, sizes=(3, 4))
    two.batch(0)
    with pytest.raises(ValueError, match="'a' has 6 places and its row 4"):
        made(lambda e: {"a": e["tokens"], "other_b": e["tokens"][:1]}, sizes=[6])
    odd = made(
        lambda e: {"a": e["tokens"]} if len(e["tokens"]) > 3 else {"b": e["tokens"]}
    )
    with pytest.raises(
        ValueError, match=r"example 0.*'a' is absent and int32\[n\], 'b'"
    ):
        odd.batch(0)
    kinds = made(
        lambda e: {"a": e["tokens"].astype(f"f{4 * (len(e['tokens']) % 2 + 1)}")}
    )
    with pytest.raises(ValueError, match=r"'a' is float64\[n\] and float32\[n\]"):
        kinds.batch(0)


def test_parts_that_do_not_go_together_are_named() -> None:
    a = Part("a", source_of([3]), features)
    b = Part("b", source_of([3]), lambda e, _: {"tokens": e["tokens"]})
    with pytest.raises(ValueError, match=r"a and b can't be mixed.*'noise' is int64"):
        Pipeline.of([a, b], data())
    empty = dataclasses.replace(a, name="empty", source=source_of([0]))
    with pytest.raises(ValueError, match=r"empty, a source of 1 documents, has no tok"):
        Pipeline.of([a, empty], data())
    assert (
        Pipeline.of([a, dataclasses.replace(a, name="c")], data()).rows_per_epoch == 2
    )
    assert [*itertools.islice(Pipeline.of([a], data()).evaluation(), 1)]
