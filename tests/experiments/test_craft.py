"""What each craft gives: the path from a pretrained encoder to a table, at toy size."""

import json

import pytest

from experiments.craft.scores import Score, row, table
from tests.experiments.forked import Mains


def test_gains_are_of_the_same_seeds():
    plain = [Score(0.5, 1.0, 0.1), Score(0.6, 1.2, 0.1), Score(0.7, 1.4, 0.3)]
    better = [Score(0.52, 1.0, 0.2), Score(0.62, 1.0, 0.2), Score(0.75, 1.0, 0.2)]
    of = row(better, plain)
    assert of["accuracy"] == pytest.approx(0.63)
    assert of["spread"] == pytest.approx(0.11533, abs=1e-5)
    assert of["gain"] == pytest.approx(0.03)
    assert of["gain_error"] == pytest.approx(0.01)  # 0.0173 over the root of three
    assert of["time"] == pytest.approx(2.0)
    text = table({"plain": row(plain, plain), "fgm": of})
    assert "| fgm | 63.0 % | ± 11.5 | +3.0 ± 1.0 | 1.000 | 2.00 |" in text


@pytest.mark.slow
def test_a_table_of_crafts(tmp_path, monkeypatch):
    """One of the loss, the network and the texts, then again without training."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    mains, crafts = Mains(tmp_path), ["plain", "mixup", "swap"]
    arguments = ["--quick", "--seeds=1", f"--workdir={tmp_path}/craft"]
    try:
        done = mains.run("craft", *arguments, "--only=mixup,swap")
        assert done.code == 0, done.err
        result = json.loads((tmp_path / "craft" / "result.json").read_text())
        assert list(result["rows"]) == crafts
        for name in crafts:
            assert 0 < result["rows"][name]["accuracy"] < 1
            assert f"| {name} |" in (tmp_path / "craft" / "craft.md").read_text()
        scored = (tmp_path / "craft" / "swap" / "0" / "score.json").stat().st_mtime_ns
        again = mains.run("craft", *arguments, "--only=swap")
        assert again.code == 0, again.err
        file = tmp_path / "craft" / "swap" / "0" / "score.json"
        assert file.stat().st_mtime_ns == scored
        wrong = mains.run("craft", *arguments, "--only=synonyms")
        assert wrong.code == 2 and "give its folder by --wordnet" in wrong.err
    finally:
        mains.close()
