"""What lies between branches is cut by the tensor axis, where it divides."""

import dataclasses
import re

import jax
import pytest

from llmjax.config import FullRemat, Gather, Ring, Ulysses
from llmjax.parallel.mesh import use
from tests.train import toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]

LAYERS, D = 3, 16
MODEL = {"num_layers": LAYERS, "num_heads": 4}
CONFIG = toy.change(toy.CONFIG, model=MODEL, layout={"remat": FullRemat()})


def program(seq_len: int, **layout):
    """Over fsdp=2, sequence=2, tensor=2."""
    config = toy.change(
        CONFIG,
        data={"seq_len": seq_len},
        layout={"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2, **layout},
    )
    return toy.program(config, 8)


def loss(program) -> float:
    batch = toy.batches(program.config).batch(0)
    with use(program.mesh):
        metrics = program.step(program.init(), program.place(batch))[1][0]
    total, count = jax.device_get(metrics["loss"])
    return float(total / count)


@pytest.fixture(scope="module")
def plain():
    return loss(toy.program(CONFIG))


def kept(program) -> set[int]:
    """Tokens of the layers' inputs that one device keeps, 16 over `sequence`."""
    with use(program.mesh):
        text = program.step.lower(program.abstract, program.batch).compile().as_text()
    counts = re.findall(rf"f32\[{LAYERS},4,(\d+),{D}\]", text)
    return {int(count) for count in counts}


def test_inputs_kept_are_whole():
    assert kept(program(16, context=Gather())) == {8}


@pytest.mark.parametrize("context", [Gather(), Ring(), Ulysses()])
def test_inputs_kept_are_cut(context, plain):
    layout = dataclasses.replace(context, sequence_parallel=True)
    cut = program(16, context=layout)
    assert kept(cut) == {4}
    assert loss(cut) == pytest.approx(plain, rel=1e-6)


def test_tokens_that_do_not_divide_are_told_before_tracing():
    with pytest.raises(ValueError, match=r"seq_len=14 .* make it a multiple of 4, or"):
        program(14, context=Gather(sequence_parallel=True))
