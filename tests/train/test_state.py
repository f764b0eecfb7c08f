"""Which axes the optimizer's leaves take, and that the state is born where they say."""

import jax
import pytest

from llmjax.config import SGD, Adafactor, AdamW, Lion
from llmjax.parallel.report import sharding_report
from tests.train import toy

UP = "transformer/stack/group_0/layer_0/mlp/up/kernel"
NORM = "transformer/stack/group_0/layer_0/mlp_norm/scale"
TABLE = "transformer/embedder/table"


def optimizer_axes(model=None, **optimizer):
    """Path -> (shape, axes) of every leaf of the optimizer's state."""
    config = toy.change(toy.CONFIG, model=model or {}, optimizer=optimizer)
    program = toy.program(config)
    rows = sharding_report(program.abstract, program.axes, program.mesh)
    prefix = "opt_state/"
    return {
        row.name.removeprefix(prefix): (row.shape, row.logical_axes)
        for row in rows
        if row.name.startswith(prefix)
    }


@pytest.mark.parametrize(
    ("algorithm", "copies"), [(AdamW(), 3), (Lion(), 2), (SGD(), 2)]
)
def test_moments_and_the_average_take_their_parameters_axes(algorithm, copies):
    named = optimizer_axes(algorithm=algorithm, ema=0.9)
    for path, shape, axes in [
        (UP, (2, 16, 32), ("L", "D", "F")),
        (NORM, (2, 16), ("L", "D_vector")),
        (TABLE, (64, 16), ("V", "D")),
    ]:
        found = [v for k, v in named.items() if k.endswith("/" + path)]
        assert found == [(shape, axes)] * copies
    counts = [v for k, v in named.items() if k.endswith("count")]
    assert counts and set(counts) == {((), ())}


def test_a_factored_leaf_takes_the_axes_that_it_kept():
    """Of a stacked leaf each layer is factored, and `L` stays in front."""
    named = optimizer_axes(algorithm=Adafactor(0.8, 4))
    stacked, single = "1/stacked/2/0/", "1/single/0/"
    assert named[stacked + "v_row/" + UP] == ((2, 16), ("L", "D"))
    assert named[stacked + "v_col/" + UP] == ((2, 32), ("L", "F"))
    assert named[stacked + "v/" + NORM] == ((2, 16), ("L", "D_vector"))
    assert named[single + "v_row/" + TABLE] == ((16,), ("D",))
    assert named[single + "v_col/" + TABLE] == ((64,), ("V",))
    # placeholders and counters lie everywhere
    assert named[stacked + "v/" + UP] == ((2, 1), (None, None))
    assert named[stacked + "count"] == ((2,), (None,))
    assert named[single + "count"] == ((), ())


def test_factored_projections_take_the_axis_of_their_heads():
    """Kernels are factored as matrices: [D, N H] = [16, 24], and [N H, D]."""
    named = optimizer_axes({"head_dim": 12}, algorithm=Adafactor(0.8, 4))
    for projection in "query", "key", "value", "out":
        leaf = UP.replace("mlp/up", f"attention/{projection}")
        heads = "N" if projection in ("query", "out") else "K"
        assert named[f"1/stacked/2/0/v_row/{leaf}"] == ((2, 16), ("L", "D"))
        assert named[f"1/stacked/2/0/v_col/{leaf}"] == ((2, 24), ("L", heads))
        assert named[f"1/stacked/2/0/v/{leaf}"] == ((2, 1), (None, None))


def test_which_of_two_equal_dimensions_was_kept_is_not_guessed():
    """D = F = 16: the kept one may be either, so the leaf lies everywhere."""
    fields = {"algorithm": Adafactor(0.8, 4)}
    config = toy.change(toy.CONFIG, model={"d_ff": 16}, optimizer=fields)
    program = toy.program(config)
    rows = sharding_report(program.abstract, program.axes, program.mesh)
    (row,) = (r for r in rows if r.name.endswith("v_row/" + UP))
    assert (row.shape, row.logical_axes) == ((2, 16), (None, None))


@pytest.mark.parametrize(
    "algorithm", [AdamW(), Adafactor(0.8, 4)], ids=["adamw", "adafactor"]
)
def test_the_state_is_born_where_the_report_says(algorithm):
    config = toy.change(
        toy.CONFIG,
        layout={"data": 2, "fsdp": 2, "tensor": 2},
        optimizer={"algorithm": algorithm, "ema": 0.9},
    )
    program = toy.program(config, devices=8)
    state = program.init()
    rows = sharding_report(program.abstract, program.axes, program.mesh)
    leaves = jax.tree.leaves(state)
    assert len(rows) == len(leaves)
    for row, leaf in zip(rows, leaves, strict=True):
        held = {s.data.nbytes for s in leaf.addressable_shards}
        assert held == {row.bytes_per_device}, row
        assert len(leaf.addressable_shards) == 8
    (up,) = (x for r, x in zip(rows, leaves, strict=True) if r.name == "params/" + UP)
    assert up.addressable_shards[0].data.shape == (2, 8, 16)
