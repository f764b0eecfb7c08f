"""Every config divides over the devices that it names; large ones match papers."""

import math
import pickle
from concurrent.futures import Future

import jax
import pytest

from experiments import plan_gate
from llmjax import config as cfg
from llmjax.parallel import axes
from llmjax.plan import gate
from llmjax.plan.compiler.compile import check_attention
from llmjax.plan.compiler.inputs import example
from llmjax.plan.cost import estimate, topologies

CONFIGS = plan_gate.paths()


@pytest.mark.parametrize("field", ["plan_topology", "plan_gpus"])
@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_names_topologies_that_it_divides_over(path, field):
    run = plan_gate.load(path)
    name = getattr(run.layout, field)
    assert name is not None
    topology = topologies.parse(name, run.layout.slices)
    assert topology.platform == ("tpu" if field == "plan_topology" else "cuda")
    sizes = estimate.mesh_sizes(run.layout, topology.devices)
    assert math.prod(sizes.values()) == topology.devices
    rows = sizes["data"] * sizes["fsdp"] * sizes["expert"] * run.layout.microbatches
    assert run.data.batch_size % rows == 0
    assert run.data.seq_len % sizes["sequence"] == 0
    check_attention(run, topology)


@pytest.mark.parametrize(
    ("name", "weights"),
    [  # published: total_size / 2 bytes in the hub's model.safetensors.index.json
        ("llama2_7b", 6_738_415_616),
        ("llama2_70b", 68_976_648_192),
        ("llama3_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
        ("llama3_405b", 405_853_388_800),
        ("mixtral_8x7b", 46_702_792_704),
    ],
)
def test_the_large_configs_have_the_published_weights(name, weights):
    run = plan_gate.load(f"configs/pretrain/{name}.py")
    task, batch = example(run)
    shapes, _ = axes.param_axes(task.model(run.model, run.layout), batch)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == weights


def test_a_config_without_a_topology_fails():
    runs = {"configs/new.py": cfg.RunConfig()}
    verdicts = gate.check_all(runs, ["plan_topology", "plan_gpus"], [], workers=1)
    faults = [v.fault for v in verdicts]
    assert faults == ["names no layout.plan_topology", "names no layout.plan_gpus"]
    assert gate.report(verdicts).count("FAILED") == 2


def test_configs_of_the_same_run_are_compiled_once(monkeypatch):
    submitted = []

    class Pool:
        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def submit(self, function, name, run, topology, compiled):
            assert pickle.loads(pickle.dumps(run)) == run  # it goes to a process
            submitted.append((name, topology, compiled))
            future = Future()
            future.set_result(gate.Verdict(name, topology, "", 1.0))
            return future

    monkeypatch.setattr(
        gate.concurrent.futures, "ProcessPoolExecutor", lambda *a: Pool()
    )
    names = [
        f"configs/{n}.py" for n in ("objectives/causal_lm", "pretrain/python_docs")
    ]
    big = "configs/pretrain/llama3_8b.py"
    runs = {name: plan_gate.load(name) for name in (*names, big)}
    lowered = [(big, "plan_topology"), *((name, "plan_gpus") for name in runs)]
    fields = ["plan_topology", "plan_gpus"]
    verdicts = gate.check_all(runs, fields, lowered, workers=2)
    assert [v.name for v in verdicts] == [*names, big] * 2
    assert [v.topology for v in verdicts[:3]] == ["v5e:2x2", "v5e:2x2", "v6e:16x16"]
    assert submitted == [  # the deepest first
        (big, "v6e:16x16", False),
        (big, "h100:8x32", False),
        (names[0], "v5e:2x2", True),
        (names[0], "h100:4", False),
    ]
