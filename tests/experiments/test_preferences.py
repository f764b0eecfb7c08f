"""Losses of preferences beside one another: from texts to a table, as a toy."""

import json

import pytest

from tests.experiments.forked import Mains

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def test_losses_learn_from_the_same_pairs(mains, tmp_path):
    flags = ("--quick", f"--workdir={tmp_path}")
    done = mains.run("preferences", *flags)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["openings"], result["held_out"]) == (12, 4)
    assert [*result["losses"]] == ["before", "dpo", "kto"]
    assert result["losses"]["before"]["kl"] == 0
    for row in result["losses"].values():
        assert 0 <= row["reward"] <= 1 and 0 < row["tokens"] <= 12
    pairs = (tmp_path / "pairs.jsonl").read_text().splitlines()
    assert len(pairs) == result["pairs"]
    for pair in map(json.loads, pairs):
        chosen, rejected = (pair[k].count("a") for k in ("chosen", "rejected"))
        sizes = [len(pair["prompt"] + pair[k]) for k in ("chosen", "rejected")]
        assert chosen / sizes[0] >= rejected / sizes[1]
    assert "by the reference" in done.out and "dpo     reward" in done.out
    again = mains.run("preferences", *flags, "--updates=2")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "result.json").read_text()) == result
    other = mains.run("preferences", *flags, "--updates=3")
    assert other.code == 2 and "was begun with other flags" in other.err
