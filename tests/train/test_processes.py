"""Two real processes train as one does: the same rows, the same losses."""

import numpy as np

from llmjax.train import loop, writers
from tests import two_processes
from tests.train import toy

TRAIN = """
jax.config.update("jax_disable_most_optimizations", True)
from llmjax.train import loop
from tests.train import toy
config = toy.change(toy.CONFIG, layout={"data": 2, "fsdp": 4})
batches = toy.batches(config)
held_out = toy.batches(config, documents=9, seed=1)
loop.fit(toy.program(config, 8), batches, held_out, sys.argv[3], progress=False)
"""


def test_two_processes_train_to_the_losses_of_one(tmp_path):
    config = toy.change(toy.CONFIG, layout={"data": 2, "fsdp": 4})
    batches = toy.batches(config)
    held_out = toy.batches(config, documents=9, seed=1)
    program = toy.program(config, 8)
    loop.fit(program, batches, held_out, tmp_path / "one", progress=False)
    two_processes.run(TRAIN, tmp_path / "two")
    one, two = (toy.untimed(writers.read(tmp_path / n)) for n in ("one", "two"))
    assert [r["step"] for r in one if "train/loss" in r] == [*range(1, 11)]
    for wanted, found in zip(one, two, strict=True):
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
