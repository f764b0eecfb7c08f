"""Cleaning is a pure function, drops copies, and lets none cross a split."""

import itertools
import random

import numpy as np

from llmjax.data import cleaning

WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu") for b in ("ra", "st", "no")]


def sentence(rng: random.Random, n: int = 60) -> list[str]:
    return [rng.choice(WORDS) + str(rng.randrange(40)) for _ in range(n)]


def plain_jaccard(a: str, b: str) -> float:
    """Written without a line of the code under test."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower())
        w = words.split()
        return set(zip(w, w[1:], w[2:], strict=False))

    x, y = grams(a), grams(b)
    return len(x & y) / len(x | y)


def test_clean_mends_encoding_dedents_and_normalises_white_space() -> None:
    text = "First.\r\n\r\n\r\n\r\n    Ã¤ is a letter.  \n      deeper\x07\n"
    assert cleaning.clean(text) == "First.\n\nä is a letter.\n  deeper"


def test_short_texts_and_copies_go_and_the_longest_near_copy_stays() -> None:
    words = sentence(random.Random(0), 120)
    long, short = " ".join([*words, "coda"]), " ".join(words)
    found = cleaning.run([short, "too short", long, f"  {long}\n"])
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
    found = cleaning.run(texts)
    crossing = 0
    for i, j in itertools.combinations(found.texts, 2):
        if plain_jaccard(texts[i], texts[j]) >= 0.5:
            assert found.splits[i] == found.splits[j]
            crossing += 1
    assert crossing > 10  # the families were there to be kept together
    assert set(found.splits.values()) == {"train", "validation", "test"}
    assert found == cleaning.run(texts)


def test_similar_pairs_are_those_of_exact_jaccard() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, (20, 100), dtype=np.uint64)
    sets = [np.unique(b) for b in base]
    sets += [
        np.unique(np.append(b[:80], rng.integers(0, 2**63, 20, dtype=np.uint64)))
        for b in base
    ]
    pairs, similarity = cleaning.similar_pairs(sets)
    wanted = [
        (i, j)
        for i, j in itertools.combinations(range(40), 2)
        if cleaning.jaccard(sets[i], sets[j]) >= cleaning.CLUSTER_SIMILARITY
    ]
    assert sorted(map(tuple, pairs.tolist())) == wanted
    assert np.all(similarity >= cleaning.CLUSTER_SIMILARITY)


def test_connected_finds_components_by_their_smallest_member() -> None:
    pairs = np.array([[4, 2], [2, 5], [0, 1]])
    assert cleaning.connected(6, pairs).tolist() == [0, 0, 2, 3, 2, 2]


def test_a_big_cluster_belongs_to_train() -> None:
    rng = random.Random(2)
    base = sentence(rng)
    for seed in range(5):
        rng = random.Random(seed)
        family = [" ".join(base[:40] + sentence(rng, 30)) for _ in range(6)]
        assert set(cleaning.run(family).splits.values()) == {"train"}
