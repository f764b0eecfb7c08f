"""What lies between branches is cut by the tensor axis, where it divides.

That losses stay the same: tests/train/test_meshes.py.
"""

import re

import pytest

from llmjax.parallel.mesh import use
from tests.train import toy

LAYERS, ROWS, D = 3, 8 // 4, 16  # of one device
LAYOUT = {"data": 1, "fsdp": 4, "tensor": 2, "remat": "full"}


def kept_tokens(seq_len: int, **layout) -> set[int]:
    """Tokens of the layers' inputs that one device keeps for the backward pass."""
    config = toy.change(toy.CONFIG, layout={**LAYOUT, **layout})
    model, data = {"num_layers": LAYERS}, {"seq_len": seq_len}
    config = toy.change(config, model=model, data=data)
    program = toy.program(config, 8)
    with use(program.mesh):
        lowered = program.step.lower(program.abstract, program.batch)
    text = lowered.compile().as_text()
    shape = rf"f32\[{LAYERS},{ROWS},(\d+),{D}\]"
    return {int(tokens) for tokens in re.findall(shape, text)}


@pytest.mark.parametrize(
    ("layout", "kept"), [({}, 16), ({"sequence_parallel": True}, 8)]
)
def test_inputs_kept_are_cut(layout, kept):
    assert kept_tokens(16, **layout) == {kept}


def test_tokens_that_do_not_divide_are_told_before_tracing():
    with pytest.raises(ValueError, match=r"seq_len=15 .* make it a multiple of 2, or"):
        kept_tokens(15, sequence_parallel=True)
