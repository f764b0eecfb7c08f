"""Batches that grow and rows that lengthen, trained through and resumed."""

from llmjax.config import Stage
from llmjax.train import loop
from llmjax.train.metrics import writers
from tests.train import toy

RAMPS = {
    "batch_sizes": (Stage(0, 4), Stage(4, 8)),
    "seq_lens": (Stage(0, 8), Stage(6, 16)),
}


def test_a_ramp_is_resumed_where_it_was(tmp_path):
    config = toy.change(toy.CONFIG, data=RAMPS)
    batches = toy.batches(config)
    assert [batches.batch(s)["tokens"].shape for s in (0, 3, 4, 6)] == [
        (8, 8),
        (8, 8),
        (16, 8),
        (8, 16),
    ]
    program = toy.program(config)
    whole, _ = loop.fit(program, batches, None, tmp_path / "whole", progress=False)
    stopped = toy.Interrupted(batches, 5, lambda: 1 / 0)
    try:
        loop.fit(program, stopped, None, tmp_path / "parts", progress=False)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("it was to be stopped")
    parts, _ = loop.fit(program, batches, None, tmp_path / "parts", progress=False)
    toy.assert_same_bits(whole.params, parts.params)
    rows = [toy.untimed(writers.read(tmp_path / n)) for n in ("whole", "parts")]
    assert rows[0] == rows[1] and rows[0][-1]["step"] == 10
