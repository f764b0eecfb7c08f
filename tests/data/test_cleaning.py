"""A step changes what it names; copies go, and none crosses a split."""

import itertools
import random
import time
import typing
from typing import Any

import numpy as np
import pytest

from llmjax.config import CleaningStep, PrepareConfig
from llmjax.data.cleaning import duplicates, selection, steps
from llmjax.data.corpora import docstrings, name_masking

WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu") for b in ("ra", "st", "no")]


def sentence(rng: random.Random, n: int = 60) -> list[str]:
    return [rng.choice(WORDS) + str(rng.randrange(40)) for _ in range(n)]


def grams(text: str) -> frozenset[tuple[str, ...]]:
    """Written without a line of the code under test."""
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower())
    w = words.split()
    return frozenset(zip(w, w[1:], w[2:], strict=False))


def plain_jaccard(x: frozenset[Any], y: frozenset[Any]) -> float:
    return len(x & y) / len(x | y)


KEPT = (
    "def f(x):\n    if x:\n        return 1",
    "    an indented beginning",
    "all:\n\tcc -o a a.c\n",
    "a:\n  - b\n  -   c\n\n\n\nd: e",
    "1\t2\t\t3\n\t\t\n",
    "你好\uff0c世界\uff01\uff11\uff12\uff13",
    "“curly” \u2018quotes’ and l’été",
    "\ufb01ne o\ufb03ce",
    "a\x85b\x85\u2028c\u2029d\x0ce",
    "e\u0301 and é",
    "a\r\nb\rc\n\n  \n",
    "10\xa0000 €  ",
    "\x1b[31mred\x1b[0m \x00\x07 \ufeff",
    "família São João, Ångström, ÃO, Žižek, Việt Nam, Ελληνικά, русский, עברית",
    " \n\t ",
)


@pytest.mark.parametrize("text", KEPT)
def test_texts_are_kept_as_they_are(text: str) -> None:
    assert steps.clean(text, PrepareConfig().resolved().cleaning) == text


def test_mojibake_is_mended_and_the_lines_beside_it_are_not_touched() -> None:
    kept = "“\uff11\uff12\uff13”\x85"
    for wrong, right in (
        ("schÃ¶n", "schön"),
        ("itâ€™s", "it’s"),
        ("itâ\x80\x99s", "it’s"),
        ("Ð¿Ñ\x80Ð\xb8Ð²ÐµÑ\x82", "привет"),
    ):
        text = f"  {kept}\r\n\t{wrong}\n{kept}"
        mended = steps.clean(text, PrepareConfig().resolved().cleaning)
        assert mended == f"  {kept}\r\n\t{right}\n{kept}"
        assert steps.clean(text, ()) == text


@pytest.mark.parametrize(
    ("step", "text", "cleaned"),
    [
        ("mojibake", "schÃ¶n", "schön"),
        ("windows_1252", "a\x85b", "a…b"),
        ("ligatures", "\ufb01ne", "fine"),
        ("width", "\uff11\uff12\uff13\uff0c", "123,"),
        ("quotes", "“a” \u2018b’", "\"a\" 'b'"),
        ("line_breaks", "a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("escapes", "\x1b[31mred\x1b[0m", "red"),
        ("controls", "a\x07\tb\ufeff\n\x1bc", "a\tb\nc"),
        ("nfc", "e\u0301", "é"),
        ("spaces", "  a\xa0b \t\n\n c  ", "  a b\n\n c"),
        ("blank_lines", "\n\n  a\n\n\n\nb\n", "  a\n\nb"),
    ],
)
def test_a_step_changes_what_it_names(step: str, text: str, cleaned: str) -> None:
    names = typing.get_args(CleaningStep)
    only: Any = (step,)
    assert steps.clean(text, only) == cleaned
    assert steps.clean(cleaned, only) == cleaned
    others = [n for n in names if n not in (step, "windows_1252", "controls")]
    if step not in ("windows_1252", "escapes"):  # others may take their characters
        assert steps.clean(text, others) == text
    assert tuple(steps.STEPS) == names


def test_docstrings_are_dedented_and_normalised() -> None:
    text = "First.\r\n\r\n\r\n\r\n    Ã¤ is a “letter”.  \n      deeper\x07\n"
    cleaned = 'First.\n\nä is a "letter".\n  deeper'
    assert docstrings.clean(text) == docstrings.clean(cleaned) == cleaned


@pytest.mark.parametrize("part", [" ", "\t", "\n", "\xa0", "Ã ", "a", "\r", " \n"])
def test_time_is_linear_in_a_text(part: str) -> None:
    text = f"é{part * 50_000}x"
    start = time.process_time()
    steps.clean(text, typing.get_args(CleaningStep))
    name_masking.mask(text)
    docstrings.clean(text)
    assert time.process_time() - start < 10  # some tenths; squares take minutes


def test_short_texts_and_copies_go_and_the_longest_near_copy_stays() -> None:
    words = sentence(random.Random(0), 120)
    long, short = " ".join([*words, "coda"]), " ".join(words)
    found = selection.select([short, "too short", long, long])
    assert list(found.texts.values()) == [long]
    assert found.counts == {
        "collected": 4,
        "dropped_short": 1,
        "dropped_exact_duplicate": 1,
        "dropped_near_duplicate": 1,
        "clusters": 1,
        "kept": 1,
    }


def test_no_similar_pair_crosses_a_split() -> None:
    rng = random.Random(1)
    texts = []
    for _ in range(60):  # families of three that share most of their shingles
        base = sentence(rng)
        for _ in range(3):
            cut = rng.randrange(42, 52)
            texts.append(" ".join(base[:cut] + sentence(rng, 60 - cut)))
    texts += [" ".join(sentence(rng, 60)) for _ in range(120)]  # and some alone
    found = selection.select(texts)
    crossing = 0
    sets = {i: grams(texts[i]) for i in found.texts}
    for i, j in itertools.combinations(sets, 2):
        if plain_jaccard(sets[i], sets[j]) >= 0.5:
            assert found.splits[i] == found.splits[j]
            crossing += 1
    assert crossing > 10  # the families were there to be kept together
    assert set(found.splits.values()) == {"train", "validation", "test"}
    assert found == selection.select(texts)


def test_similar_pairs_are_those_of_exact_jaccard() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, (20, 100), dtype=np.uint64)
    sets = [np.unique(b) for b in base]
    sets += [
        np.unique(np.append(b[:80], rng.integers(0, 2**63, 20, dtype=np.uint64)))
        for b in base
    ]
    pairs, similarity = selection.similar_pairs(sets)
    wanted = [
        (i, j)
        for i, j in itertools.combinations(range(40), 2)
        if selection.jaccard(sets[i], sets[j]) >= selection.CLUSTER_SIMILARITY
    ]
    assert sorted(map(tuple, pairs.tolist())) == wanted
    assert np.all(similarity >= selection.CLUSTER_SIMILARITY)


def test_connected_finds_components_by_their_smallest_member() -> None:
    pairs = np.array([[4, 2], [2, 5], [0, 1]])
    assert duplicates.connected(6, pairs).tolist() == [0, 0, 2, 3, 2, 2]


def test_a_big_cluster_belongs_to_train() -> None:
    rng = random.Random(2)
    base = sentence(rng)
    for seed in range(5):
        rng = random.Random(seed)
        family = [" ".join(base[:40] + sentence(rng, 30)) for _ in range(6)]
        assert set(selection.select(family).splits.values()) == {"train"}


def test_signatures_of_files_estimate_the_similarity_of_words() -> None:
    rng = random.Random(3)
    pairs = []
    for cut in range(0, 61, 6):
        base = sentence(rng)
        pairs.append([" ".join(base), " ".join(base[:cut] + sentence(rng, 60 - cut))])
    flat = [text for pair in pairs for text in pair]
    found = duplicates.signatures(flat)
    assert found.dtype == np.uint32 and found.shape == (22, 126)
    for k, (a, b) in enumerate(pairs):
        estimate = (found[2 * k] == found[2 * k + 1]).mean()
        assert abs(estimate - plain_jaccard(grams(a), grams(b))) < 4 * 0.5 / 126**0.5
    # A text's signature is its own, whatever stands beside it; case is nothing.
    alone = np.concatenate([duplicates.signatures([t.upper()]) for t in flat])
    np.testing.assert_array_equal(alone, found)
    np.testing.assert_array_equal(duplicates.signatures(flat[::-1])[::-1], found)
    # Of a script without spaces, each ideograph is a word.
    chinese = "".join(chr(0x4E00 + rng.randrange(5000)) for _ in range(60))
    a, b = duplicates.signatures([chinese, chinese[:-6] + "一二三四五六"])
    assert 0.5 < (a == b).mean() < 1
    # Nothing and little have signatures as well; ideographs are words.
    odd = duplicates.signatures(["", "...", "a", "a b", "中文文本好", "中文文本坏"])
    assert len({row.tobytes() for row in odd}) == 5  # "" and "..." are one


def test_similar_signatures_are_found_again() -> None:
    rng = random.Random(4)
    base = [sentence(rng) for _ in range(40)]
    near = [" ".join(b[:55] + sentence(rng, 5)) for b in base]
    texts = [" ".join(b) for b in base] + near
    pairs, similarity = duplicates.similar(duplicates.signatures(texts), 0.5)
    assert pairs.tolist() == [[i, i + 40] for i in range(40)]
    for (i, j), found in zip(pairs.tolist(), similarity, strict=True):
        assert abs(found - plain_jaccard(grams(texts[i]), grams(texts[j]))) < 0.18


def test_the_longest_stays_but_never_against_its_rank() -> None:
    pairs = np.array([[0, 1], [1, 2]])
    assert duplicates.drop_near_copies(pairs, [1, 2, 3]) == {1}
    assert duplicates.drop_near_copies(pairs, [1, 3, 2]) == {0, 2}
    assert duplicates.drop_near_copies(pairs, [2, 2, 2]) == {1}
    assert duplicates.drop_near_copies(pairs, [1, 3, 2], [0, 1, 1]) == {1}
