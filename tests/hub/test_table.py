"""Patterns between the hub's layouts and ours, whole and in slices."""

import itertools

import einops
import numpy as np
import pytest

from llmjax.config import Group, LayerSpec
from llmjax.hub import families
from llmjax.hub.binding import Bound, bind
from llmjax.hub.table import Entry, LayerTable, Table

N, K, H, U, D, F = 4, 2, 6, 3, 5, 7
QUERY, KEY = (D, N, H), (D, K, H)
# name -> entry, shapes of our leaves, what einops makes of ours, in its own words
CASES = {
    "plain": (
        Entry("w", "a", "F D -> D F"),
        [(D, F)],
        lambda a: a.T,
    ),
    "heads": (
        Entry("w", "a", "(N H) D -> D N H"),
        [QUERY],
        lambda a: einops.rearrange(a, "D N H -> (N H) D"),
    ),
    "heads last": (
        Entry("w", "a", "D (N H) -> N H D"),
        [(N, H, D)],
        lambda a: einops.rearrange(a, "N H D -> D (N H)"),
    ),
    "a unit axis": (Entry("w", "a", "1 D -> D"), [(D,)], lambda a: a[None]),
    "interleaved halves": (
        Entry("w", "a", "(N h 2) D -> D N (2 h)"),
        [QUERY],
        lambda a: einops.rearrange(a, "D N (two h) -> (N h two) D", two=2),
    ),
    "GPT-2": (
        Entry("w", ("a", "b", "c"), "D (p N H) -> p D N H"),
        [QUERY] * 3,
        lambda *a: np.concatenate([x.reshape(D, N * H) for x in a], axis=1),
    ),
    "GPT-NeoX": (
        Entry("w", ("a", "b", "c"), "(N p H) D -> p D N H"),
        [QUERY] * 3,
        lambda *a: einops.rearrange(np.stack(a), "p D N H -> (N p H) D"),
    ),
    "gpt-oss": (
        Entry("w", ("a", "b"), "E D (F p) -> p E D F"),
        [(2, D, F)] * 2,
        lambda *a: einops.rearrange(np.stack(a), "p E D F -> E D (F p)"),
    ),
    "Phi-3": (
        Entry("w", ("a", "b"), ("(N H) D -> D N H", "(K H) D -> D K H")),
        [QUERY, KEY],
        lambda *a: np.concatenate([x.reshape(D, -1).T for x in a]),
    ),
    "DeepSeek": (
        Entry("w", ("a", "b"), ("(N H) D -> D N H", "(N U) D -> D N U"), "N"),
        [QUERY, (D, N, U)],
        lambda *a: einops.rearrange(np.concatenate(a, axis=2), "D N X -> (N X) D"),
    ),
}


def bound(case: str) -> tuple[Bound, list[np.ndarray], np.ndarray]:
    entry, shapes, expected = CASES[case]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    names = [entry.leaf] if isinstance(entry.leaf, str) else entry.leaf
    (entry,) = bind(Table((entry,)), dict(zip(names, shapes, strict=True)))
    return entry, arrays, expected(*arrays)


@pytest.mark.parametrize("case", CASES)
def test_ours_to_theirs(case):
    entry, arrays, theirs = bound(case)
    np.testing.assert_array_equal(entry.join(arrays), theirs)
    assert entry.shape == theirs.shape


def ranges(size: int) -> list[slice]:
    return [slice(0, size), slice(1, 2), slice(size // 2, size), slice(0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_every_slice_of_ours_from_theirs(case):
    entry, arrays, theirs = bound(case)

    def read(index):
        assert len(index) == theirs.ndim
        return theirs[index]

    for view, array in zip(entry.views, arrays, strict=True):
        for index in itertools.product(*map(ranges, array.shape)):
            np.testing.assert_array_equal(view.read(read, index), array[index])


@pytest.mark.parametrize(
    ("case", "leaf", "axis", "expected"),
    [
        ("heads", 0, 1, (slice(2 * H, 3 * H), slice(0, D))),
        ("heads last", 0, 0, (slice(0, D), slice(2 * H, 3 * H))),
        ("GPT-2", 1, 1, (slice(0, D), slice((N + 2) * H, (N + 3) * H))),
        ("GPT-NeoX", 1, 1, (slice(7 * H, 8 * H), slice(0, D))),
        ("Phi-3", 1, 0, (slice(N * H, (N + K) * H), slice(2, 3))),
        ("DeepSeek", 1, 1, (slice(3 * H + 2 * U, 3 * (H + U)), slice(0, D))),
    ],
)
def test_a_slice_reads_nothing_else(case, leaf, axis, expected):
    """One head, or one row of D: exactly its range of theirs, not the whole."""
    entry, arrays, theirs = bound(case)
    indices = []

    def read(index):
        indices.append(index)
        return theirs[index]

    index = [slice(0, size) for size in arrays[leaf].shape]
    index[axis] = slice(2, 3)
    entry.views[leaf].read(read, index)
    assert indices == [expected]


# --- names ---------------------------------------------------------------------------


def names(b: Bound) -> list[str]:
    return [b.tensor(index) for index in b.indices()]


def test_layers_are_numbered_through_groups_and_patterns():
    two = (LayerSpec(), LayerSpec())
    groups = (Group(1), Group(2, two), Group(3, shared=True), Group(1))
    section = LayerTable("s", groups, (Entry("h.{l}.w", "w", "D -> D"),), first=1)
    shapes = {
        "s/group_0/layer_0/w": (1, D),
        "s/group_1/layer_0/w": (2, D),
        "s/group_1/layer_1/w": (2, D),
        "s/group_2/layer_0/w": (D,),
        "s/group_3/layer_0/w": (1, D),
    }
    entries = bind(Table((), (section,)), shapes)
    assert {b.paths[0]: names(b) for b in entries} == {
        "s/group_0/layer_0/w": ["h.1.w"],
        "s/group_1/layer_0/w": ["h.2.w", "h.4.w"],
        "s/group_1/layer_1/w": ["h.3.w", "h.5.w"],
        "s/group_2/layer_0/w": ["h.6.w"],
        "s/group_3/layer_0/w": ["h.7.w"],
    }


def test_experts_are_numbered_after_layers():
    entry = Entry("h.{l}.e.{e}.w", "up", "F D -> D F")
    section = LayerTable("s", (Group(2),), (entry,))
    (entry,) = bind(Table((), (section,)), {"s/group_0/layer_0/up": (2, 3, D, F)})
    assert names(entry)[:4] == ["h.0.e.0.w", "h.0.e.1.w", "h.0.e.2.w", "h.1.e.0.w"]
    assert entry.shape == (F, D)


def test_an_entry_without_its_leaf_does_not_count():
    table = Table((Entry("w", "w", "D -> D"), Entry("b", "b", "D -> D")))
    assert [b.name for b in bind(table, {"w": (D,)})] == ["w"]


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "shapes", "message"),
    [
        ((), {"w": (D,)}, r"no entry for our leaf w \(5,\)"),
        (
            (Entry("x", "w", "D -> D"), Entry("y", "w", "D -> D")),
            {"w": (D,)},
            "two entries for our leaf w",
        ),
        ((Entry("x", ("a", "b"), "(p D) -> p D"),), {"a": (D,)}, "our model lacks b"),
        (
            (Entry("x", ("a", "b"), "(p D) -> p D"),),
            {"a": (D,), "b": (F,)},
            "unlike shapes",
        ),
        ((Entry("x", "w", "F D -> D F"),), {"w": (D,)}, "does not fit our shape"),
        ((Entry("x", "w", "(h 2) -> (2 h)"),), {"w": (D,)}, "does not fit our shape"),
    ],
)
def test_a_table_that_does_not_fit(entries, shapes, message):
    with pytest.raises(ValueError, match=message):
        bind(Table(entries), shapes)


@pytest.mark.parametrize("model_type", families.MODULES)
def test_every_registered_family_is_there(model_type):
    family = families.family(model_type)
    assert family.name == model_type
    heads = {"LanguageModel", "Encoder", "Discriminator", "SpanFinder", "ChoiceScorer"}
    classifiers = {"SequenceClassifier", "TokenClassifier"}
    assert set(family.architectures.values()) <= heads | classifiers
    for head in classifiers:
        classifies = head in family.architectures.values()
        assert classifies == (family.way(head) is not None)


@pytest.mark.parametrize("model_type", ["lama", None, 3, ["llama"]])
def test_an_unknown_family_names_the_others(model_type):
    with pytest.raises(ValueError, match="accepted: llama"):
        families.family(model_type)
