"""Every config divides over the TPUs that it names; large ones match their papers."""

import math
import pickle
from concurrent.futures import Future

import jax
import pytest

from experiments import plan_gate
from llmjax import config as cfg
from llmjax.parallel import axes
from llmjax.plan import gate
from llmjax.plan.compiler.inputs import example
from llmjax.plan.cost import chips, estimate

CONFIGS = plan_gate.paths()


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_names_a_topology_that_it_divides_over(path):
    run = plan_gate.load(path)
    assert run.layout.plan_topology is not None
    topology = chips.parse(run.layout.plan_topology, run.layout.slices)
    sizes = estimate.mesh_sizes(run.layout, topology.devices)
    assert math.prod(sizes.values()) == topology.devices
    rows = sizes["data"] * sizes["fsdp"] * sizes["expert"] * run.layout.microbatches
    assert run.data.batch_size % rows == 0
    assert run.data.seq_len % sizes["sequence"] == 0


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
    verdict = gate.check("configs/new.py", cfg.RunConfig(), compiled=True)
    assert verdict.fault == "names no layout.plan_topology"
    assert "FAILED" in gate.report([verdict])


def test_configs_of_the_same_run_are_compiled_once(monkeypatch):
    submitted = []

    class Pool:
        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def submit(self, function, name, run, compiled):
            assert pickle.loads(pickle.dumps(run)) == run  # it goes to a process
            submitted.append((name, compiled))
            future = Future()
            future.set_result(gate.Verdict(name, "v5e:2x2", "", 1.0))
            return future

    monkeypatch.setattr(
        gate.concurrent.futures, "ProcessPoolExecutor", lambda *a: Pool()
    )
    names = [
        f"configs/{n}.py" for n in ("objectives/causal_lm", "pretrain/python_docs")
    ]
    big = "configs/pretrain/llama3_8b.py"
    runs = {name: plan_gate.load(name) for name in (*names, big)}
    verdicts = gate.check_all(runs, [big], workers=2)
    assert [v.name for v in verdicts] == [*names, big]
    assert submitted == [(big, False), (names[0], True)]  # the deepest first
