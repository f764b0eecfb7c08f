"""A run that compares with its first weights: what they are, and that they stay."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from llmjax.config import DPO, KTO, ORPO, Checkpoint, LoRA, Preference, SimPO
from llmjax.data.batches.pipeline import Pipeline
from llmjax.models.forward import REFERENCE
from llmjax.parallel.mesh import make_mesh, use
from llmjax.train import loop, setup
from llmjax.train.checkpoints.reading import load_params, load_reference
from llmjax.train.metrics import evaluation, writers
from llmjax.train.state import WithAxes
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")


def config_of(loss, **parts):
    data = {"packing": "pad"} | parts.pop("data", {})
    train = {"eval_every": 30, "checkpoint_every": 4} | parts.pop("train", {})
    return toy.change(toy.NOISY, task=Preference(loss), data=data, train=train, **parts)


CONFIG = config_of(DPO())


def batches(config, count=64, seed=0):
    """The better answer counts on from its prompt, the worse one back."""
    rng, task = np.random.default_rng(seed), toy.task(config)
    examples = []
    for number in range(count):
        start, n = rng.integers(20, 40), rng.integers(1, 6)
        prompt = np.arange(start - n, start, dtype=np.int32)
        up = start + np.arange(rng.integers(1, 6), dtype=np.int32)
        down = start - 2 - np.arange(rng.integers(1, 6), dtype=np.int32)
        if isinstance(config.task.loss, KTO):
            answer = {"completion": (down, up)[number % 2], "label": number % 2}
        else:
            answer = {"chosen": up, "rejected": down}
        examples.append({"prompt": prompt} | answer)
    source = task.listed(examples, task.text_length)
    return Pipeline(source, task.features, config.data, task.length)


def program_of(config, devices=1, **parts):
    mesh = make_mesh(config.layout, jax.devices()[:devices])
    example = batches(config).batch(0)
    return setup.build(config, toy.task(config), example, mesh=mesh, **parts)


@pytest.fixture(scope="module")
def program():
    return program_of(CONFIG)


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory):
    """The workdir, and the state at the end of a run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    state, _ = loop.fit(
        program, batches(CONFIG), batches(CONFIG, 9, 1), workdir, progress=False
    )
    return workdir, jax.device_get(state)


def test_the_reference_is_what_the_run_began_with(program, whole):
    workdir, state = whole
    first = jax.device_get(program.init())
    toy.assert_same_bits(first.frozen[REFERENCE], first.params)
    toy.assert_same_bits(state.frozen[REFERENCE], first.params)
    toy.assert_same_bits(load_reference(workdir, 10), first.params)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, state.params)
    assert all(jax.tree.leaves(moved))
    rows = writers.read(workdir)
    assert rows[0]["eval/loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert rows[0]["eval/margin"] == 0 and rows[-1]["eval/margin"] > 0


@pytest.mark.parametrize("step", [2, 6])
def test_killed_and_resumed_with_a_reference(step, program, whole, tmp_path):
    def kill():
        raise KeyboardInterrupt

    held_out = batches(CONFIG, 9, 1)
    with pytest.raises(KeyboardInterrupt):
        ended = toy.Interrupted(batches(CONFIG), step, kill)
        loop.fit(program, ended, held_out, tmp_path, progress=False)
    state, _ = loop.fit(
        program_of(CONFIG), batches(CONFIG), held_out, tmp_path, progress=False
    )
    toy.assert_same_bits(jax.device_get(state), whole[1])


def test_the_reference_of_tuned_weights_is_those(whole, tmp_path):
    """Not the random ones that the state is born with; frozen ones are kept once."""
    workdir, _ = whole
    freeze = {"freeze": ("transformer/embedder/*",)}
    config = config_of(DPO(), train={"steps": 2, "seed": 5}, optimizer=freeze)
    config = dataclasses.replace(config, init=Checkpoint(str(workdir)))
    program, train = program_of(config), batches(config)
    loop.fit(program, train, None, tmp_path, progress=False)
    _, best = load_params(workdir)
    toy.assert_same_bits(load_reference(tmp_path, 2), jax.device_get(best))
    assert set(program.abstract.frozen[REFERENCE]["transformer"]) == {"stack"}
    rows = writers.read(tmp_path)
    assert rows[0]["train/chosen_reward"] != 0  # dropout is on, of one of both


def test_another_reference_may_be_given(program):
    config = config_of(DPO(), model={"dropout": 0.0})
    first = jax.device_get(program.init().params)
    half = jax.tree.map(lambda x: 0.5 * x, first)
    other = program_of(config, frozen={REFERENCE: WithAxes(half)})
    state = other.init()
    toy.assert_same_bits(jax.device_get(state.frozen[REFERENCE]), half)
    metrics = evaluation.evaluate(other, state.params, batches(config, 9, 1))
    assert abs(metrics["chosen_reward"]) > 1e-4
    own = evaluation.evaluate(
        other, state.params, batches(config, 9, 1), {REFERENCE: state.params}
    )
    assert own["chosen_reward"] == 0


@pytest.mark.parametrize(
    "loss",
    [DPO(beta=0.5), KTO(beta=0.5), ORPO(beta=0.5), SimPO()],
    ids=lambda x: x.kind,
)
def test_held_out_margins_rise(loss, tmp_path):
    config = config_of(loss, train={"steps": 30}, model={"dropout": 0.0})
    program = program_of(config)
    held_out = batches(config, 32, 1)
    loop.fit(program, batches(config), held_out, tmp_path, progress=False)
    before, after = (
        row for row in writers.read(tmp_path) if "eval/chosen_reward" in row
    )

    def margin(row):
        return row["eval/chosen_reward"] - row["eval/rejected_reward"]

    assert margin(after) > margin(before) + 0.1
    assert after["eval/accuracy"] > 0.9
    kept = REFERENCE in program.abstract.frozen
    assert kept == program.task.needs_reference


@pytest.fixture(scope="module", params=[DPO(), KTO()], ids=lambda loss: loss.kind)
def loss_on_one(request):
    """A loss, and what a step on one device gives."""
    return request.param, stepped(request.param, 1, {})


def stepped(loss, devices, layout):
    """Metrics and the gradient's norm of a step away from the reference."""
    config = config_of(loss, model={"dropout": 0.0}, layout=layout)
    program = program_of(config, devices)
    state = program.init()
    far = jax.tree.map(lambda x: 1.5 * x, state.params)
    if "fsdp" in layout:
        first = jax.tree.leaves(state.frozen[REFERENCE])[0]
        assert not first.sharding.is_fully_replicated
    with use(program.mesh):
        rows = program.place(batches(config).batch(0))
        state = dataclasses.replace(state, params=far)
        _, (metrics, scalars) = program.step(state, rows)
    return jax.device_get((metrics, scalars["grad_norm"]))


@pytest.mark.parametrize(
    ("devices", "layout"),
    [
        (1, {"microbatches": 4}),
        (8, {"data": 2, "fsdp": 2, "tensor": 2}),
        pytest.param(8, {"data": 4, "sequence": 2}, marks=pytest.mark.slow),
    ],
    ids=["microbatches", "fsdp", "sequence"],
)
def test_a_step_is_the_same_on_every_layout(devices, layout, loss_on_one):
    loss, want = loss_on_one
    if loss.kind == "kto" and "microbatches" in layout:
        with pytest.raises(ValueError, match="over the whole batch"):
            stepped(loss, devices, layout)
        return
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
        stepped(loss, devices, layout),
        want,
    )


def test_the_reference_of_adapters_is_the_base(tmp_path):
    """It is kept as the adapters were, and read merged, as all weights are."""
    config = config_of(DPO(), train={"steps": 4}, peft=LoRA(rank=2))
    program = program_of(config)
    kept = flatten_dict(program.abstract.frozen[REFERENCE], sep="/")
    assert all("kernel_lora" in name for name in kept)
    state, _ = loop.fit(program, batches(config), None, tmp_path, progress=False)
    first, (_, last) = load_reference(tmp_path, 4), load_params(tmp_path, 4)
    base = flatten_dict(jax.device_get(state.frozen["params"]))
    for name, leaf in flatten_dict(first).items():
        np.testing.assert_array_equal(leaf, base[name], str(name))
    assert jax.tree.structure(first) == jax.tree.structure(last)
