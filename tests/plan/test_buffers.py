"""Every byte at the peak has a kind, and every large buffer a name."""

import dataclasses
from pathlib import Path

import pytest

from llmjax.config import DataConfig, LayoutConfig, ModelConfig, RunConfig
from llmjax.parallel import mesh as mesh_lib
from llmjax.plan.compiler import buffers, inputs
from llmjax.plan.compiler.compile import Compiled, Seconds
from llmjax.plan.cost import chips
from llmjax.train import setup

# A dump of libtpu 0.0.52, shortened: a forward loop that stacks activations, the
# backward pass that reads them, a weight's gradient and a cast of the weight.
FOLDER = Path(__file__).parent / "fixtures" / "buffers"
DUMP = {file.stem: file.read_text() for file in FOLDER.glob("*.txt")}
LAYER = "jit(step)/jvp(Net)/transformer/stack/while/body/eval_jaxpr/group_0/layer_0"


@pytest.fixture(scope="module")
def program(tiny):
    """A tiny decoder, sharded over the eight devices of the tests."""
    return build(tiny, LayoutConfig(data=1, fsdp=8))


def build(model: ModelConfig, layout: LayoutConfig) -> setup.Program:
    run = RunConfig(model, data=DataConfig(batch_size=8, seq_len=16), layout=layout)
    task, batch = inputs.example(run)
    return setup.build(run, task, batch, mesh=mesh_lib.make_mesh(layout))


@pytest.fixture
def compiled(program):
    return Compiled(
        program.config,
        chips.parse("v5e:2x4"),
        program,
        None,
        2340,
        4096,
        "Ran out of memory",
        "",
        DUMP,
        Seconds(0.0, 0.0, 0.0, 0.0),
    )


def test_kinds_sum_to_the_peak(compiled, monkeypatch):
    monkeypatch.setattr(buffers, "weight_shapes", lambda program: {(8, 16)})
    usage = buffers.usage(compiled)
    assert usage.peak == sum(usage.kinds.values()) == 2340
    assert usage.kinds == {
        "parameters": 512,
        "optimizer": 512,
        "batch": 16,
        "gradients": 512,
        "activations": 128 + 64,  # of all layers, and computed again
        "temporaries": 256 + 64 + 276,  # the cast, of the backward pass, and gaps
    }


def test_buffers_have_the_names_of_the_model(compiled, monkeypatch):
    monkeypatch.setattr(buffers, "weight_shapes", lambda program: {(8, 16)})
    by_name = {b.name: b for b in buffers.usage(compiled).largest}
    assert list(by_name)[:3] == [
        "params/mlp/gate/kernel",
        "opt_state/0/mu/mlp/gate/kernel",
        "stack/group_0/layer_0/mlp/gate/dot_general (backward)",
    ]
    stacked = by_name["stack/group_0/layer_0/mlp/gate/dot_general"]
    assert (stacked.kind, stacked.source) == ("activations", "layers.py:63")
    assert by_name["copy of params/mlp/gate/kernel"].shape == "bf16[8,16]"
    assert "stack/group_0/layer_0/mlp/up/dot_general (again)" in by_name
    assert not any("fast" in name for name in by_name)  # in vector memory


def test_values_at_one_offset_count_once_at_the_peak():
    allocations = buffers.allocations(DUMP["buffers"])
    values = next(v for *_, description, v in allocations if "temp" in description)
    live = buffers.at_peak(values, buffers.live_ranges(DUMP["live-range"]))
    names = [v.name for v in live]
    assert names[:3] == ["grad", "cast", "while.1{1}"]
    assert set(names[3:]) == {"again", "back"}


@pytest.mark.parametrize(
    ("op_name", "index"),
    [
        (f"{LAYER}/layer_0._branch/mlp/mlp/up/BTD,DF->BTF/dot", 0),
        ("jit(step)/vmap(transpose(jvp(Net.outputs)))/embedder.lookup/gather", 1),
        ("", 2),
        ("jit(step)/transpose(jvp(Net))/(mlp/up/dot:mlp/down/dot:norm/mul)", 3),
        ("(jit(step)/jvp(Net)/mlp/up/dot:norm/mul)", 4),
    ],
)
def test_readable(op_name, index):
    expected = (
        "stack/group_0/layer_0/mlp/up/dot",
        "embedder.lookup/gather",
        "",
        "mlp/up/dot and 2 more",
        "mlp/up/dot and 1 more",
    )
    assert buffers.readable(op_name) == expected[index]


def test_large_unsharded_leaves_are_reported(program):
    assert buffers.replicated(program) == []
    faults = buffers.replicated(program, limit=64)
    assert any("final_norm/scale (16) takes" in line for line in faults)
    assert not any("kernel" in line or "table" in line for line in faults)


def test_a_weight_that_lost_its_sharding_is_reported(program):
    whole = program.shardings.params["transformer"]["stack"]["final_norm"]["scale"]
    params = {**program.shardings.params}
    params["transformer"] = {**params["transformer"], "embedder": {"table": whole}}
    shardings = program.shardings.replace(params=params)
    planted = dataclasses.replace(program, shardings=shardings)
    (line,) = (x for x in buffers.replicated(planted, 1024) if "params/" in x)
    assert "embedder/table (40x16)" in line
    assert "fsdp should cut" in line


def test_a_mesh_of_data_alone_replicates_without_faults(tiny):
    program = build(tiny, LayoutConfig(data=8))
    assert buffers.replicated(program, limit=1) == []


@pytest.mark.parametrize("page", ["", " page 0,"], ids=["jax 0.10", "jax 0.12"])
def test_allocations_of_either_compiler(page):
    what = "parameter 9, shape |f32[2,8]| at ShapeIndex {}:"
    head = f"allocation 7: size 64,{page} {what}"
    value = " value: <27 param.26 @0> (size=64,offset=0): f32[2,8]{1,0}"
    ((size, color, kind, values),) = buffers.allocations(f"{head}\n{value}")
    assert (size, color, len(values)) == (64, 0, 1)
    assert kind.startswith("parameter 9, shape |f32[2,8]|")
