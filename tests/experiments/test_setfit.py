"""Few examples: the pairs of the paper, draws, and what is no example."""

import numpy as np
import pytest

from experiments.setfit import few_shot as setfit
from experiments.setfit.few_shot import Labelled

TEXTS = [Labelled(f"{c}{k}", c) for c in "abc" for k in range(4)]


def test_pairs_are_those_of_the_paper():
    """Section 3.1: of each class R positive and R negative triplets, here R = 5 * 4."""
    pairs = setfit.pairs_of(TEXTS, 5, np.random.default_rng(0))
    assert len(pairs) == 2 * 5 * len(TEXTS)
    label = {row.text: row.label for row in TEXTS}
    for name in "abc":
        own = [p for p in pairs if label[p["anchor"]] == name]
        assert [p["score"] for p in own].count(1.0) == 20 == len(own) - 20
    for pair in pairs:
        same = label[pair["anchor"]] == label[pair["positive"]]
        assert pair["score"] == float(same) and pair["anchor"] != pair["positive"]
    # each is drawn evenly from those that it may be
    many = setfit.pairs_of(TEXTS, 400, np.random.default_rng(0))
    second = [p["positive"] for p in many if p["anchor"] == "a0"]
    counts = {text: second.count(text) for text in label if text != "a0"}
    assert all(abs(counts[f"a{k}"] / 133 - 1) < 0.3 for k in (1, 2, 3))
    others = [n for text, n in counts.items() if label[text] != "a"]
    assert all(abs(n / 50 - 1) < 0.5 for n in others)
    again = setfit.pairs_of(TEXTS, 5, np.random.default_rng(0))
    assert again == pairs


def test_draws_have_so_many_of_each_class():
    few = setfit.drawn([*TEXTS, *TEXTS], 3, np.random.default_rng(1))
    assert sorted(row.label for row in few) == [*"aaabbbccc"]
    assert len({row.text for row in few}) == 9


def test_what_makes_no_pairs_is_named(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="all texts are of the class 'a'"):
        setfit.pairs_of(TEXTS[:4], 1, rng)
    for alone in ([Labelled("x", "d")], [Labelled("x", "d")] * 2):
        with pytest.raises(ValueError, match="'d' has one text alone"):
            setfit.pairs_of([*TEXTS, *alone], 1, rng)
    with pytest.raises(ValueError, match="'a' has 4 texts .* lower --shots=5"):
        setfit.drawn(TEXTS, 5, rng)
    setfit.check_classes(TEXTS, TEXTS[:2])
    with pytest.raises(ValueError, match="--test has the class 'z', and no text of"):
        setfit.check_classes(TEXTS, [*TEXTS, Labelled("x", "z")])
    with pytest.raises(ValueError, match="--train=none.csv is not there"):
        setfit.texts_of("none.csv", "--train")
    (tmp_path / "empty.csv").write_text("text,label\n,a\nx,\n")
    with pytest.raises(ValueError, match="no text with a class"):
        setfit.texts_of(str(tmp_path / "empty.csv"), "--train")
