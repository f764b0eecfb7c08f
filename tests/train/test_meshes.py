"""One config on some meshes: initial bits, losses, and a checkpoint that moves.

All axes, alone and together, with five models: `python tests/proofs/meshes.py`.
"""

import dataclasses

import jax
import numpy as np
import pytest

from llmjax.config import Dropless, Gather, Mixture, Pipeline, Ring
from llmjax.train import loop
from llmjax.train.metrics import writers
from tests.float64 import float64, widened
from tests.train import toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]

LAYOUTS = {
    "one": (1, {}),
    "fsdp": (8, {"data": 1, "fsdp": 8}),
    "fsdp and tensor": (
        8,
        {"data": 1, "fsdp": 4, "tensor": 2, "context": Gather(True)},
    ),
    "pipeline, ring and tensor": (
        8,
        {
            "data": 1,
            "pipeline": Pipeline(2),
            "sequence": 2,
            "tensor": 2,
            "context": Ring(sequence_parallel=True),
        },
    ),
}
CONFIG = toy.change(toy.CONFIG, optimizer={"learning_rate": 3e-3})


@pytest.fixture(scope="module")
def programs():
    return {
        name: toy.program(toy.change(CONFIG, layout=layout), devices)
        for name, (devices, layout) in LAYOUTS.items()
    }


def train(program, workdir, **fields):
    config = toy.change(program.config, train=fields)
    program = dataclasses.replace(program, config=config)
    state, _ = loop.fit(program, toy.batches(CONFIG), None, workdir, progress=False)
    losses = [r["train/loss"] for r in writers.read(workdir)]
    return jax.device_get(state), losses


@pytest.fixture(scope="module")
def runs(programs, tmp_path_factory):
    return {
        name: train(program, tmp_path_factory.mktemp("mesh"))
        for name, program in programs.items()
    }


def test_the_same_initial_bits_on_every_mesh(programs):
    want, *others = [jax.device_get(p.init()) for p in programs.values()]
    for other in others:
        toy.assert_same_bits(other, want)


def test_the_same_losses_on_every_mesh(runs):
    want = runs["one"][1]
    assert len(want) == 10 and want[-1] < want[0]
    for _, losses in runs.values():
        np.testing.assert_allclose(losses, want, rtol=1e-5)


def test_a_mixture_has_the_same_losses(tmp_path):
    """Dropless over experts, D and F; in float64, so that no router turns."""
    model = {"mlp": Mixture(4, 2, 16, 8, dispatch=Dropless(), z_loss=0.01)}
    config = toy.change(CONFIG, model=model)
    spread = {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}
    with float64():
        one = toy.program(widened(config))
        eight = toy.program(widened(toy.change(config, layout=spread)), 8)
        toy.assert_same_bits(*(jax.device_get(p.init()) for p in (one, eight)))
        _, want = train(one, tmp_path / "one")
        _, losses = train(eight, tmp_path / "eight")
    assert len(want) == 10 and want[-1] < want[0]
    np.testing.assert_allclose(losses, want, rtol=1e-10)


@pytest.mark.parametrize(
    ("here", "there"),
    [("one", "fsdp and tensor"), ("fsdp", "pipeline, ring and tensor")],
)
def test_a_checkpoint_moves_to_another_mesh(here, there, programs, runs, tmp_path):
    """Saved at the fourth step of ten, and gone on from; the schedule is of ten."""
    config = programs[here].config
    half = dataclasses.replace(programs[here], config=config)
    batches = toy.Interrupted(toy.batches(CONFIG), 4, stop)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(half, batches, None, tmp_path, progress=False)
    state, losses = train(programs[there], tmp_path)
    whole, wanted = runs[there]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

    jax.tree.map(close, state.params, whole.params)


def stop():
    raise KeyboardInterrupt
