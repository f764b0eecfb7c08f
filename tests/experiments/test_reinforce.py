"""Sums by rewards: the path from a half-learned model to a table, at toy size."""

import json

import pytest

from tests.experiments.forked import Mains

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def test_sums_by_rewards(mains, tmp_path):
    done = mains.run("reinforce", "--quick", f"--workdir={tmp_path}")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["sums"], result["held_out"]) == (32, 4)
    assert set(result["losses"]) == {"grpo", "dr_grpo"}
    for row in result["losses"].values():
        assert row["updates"] == 2 and 0 <= row["after"] <= 1
        assert 0 < row["tokens_after"] <= 5
    assert "new sums are right before" in done.out
    again = mains.run("reinforce", "--quick", f"--workdir={tmp_path}")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert "this run is finished" in again.out
