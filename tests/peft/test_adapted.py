"""Adapters in training: what is trained, in what layouts, and merged back."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from llmjax.config import (
    IA3,
    DotsRemat,
    LayoutConfig,
    LoRA,
    Mixture,
    PartialTuning,
    Pipeline,
)
from llmjax.models.forward import variables
from llmjax.parallel.mesh import use
from llmjax.peft import adapted
from llmjax.train import loop
from llmjax.train.checkpoints import checkpoints
from tests.train import toy

ALL = ("*/attention/*", "*/mlp/*")
LORA = LoRA(rank=4, targets=ALL)
METHODS = {
    "lora": LORA,
    "rslora": dataclasses.replace(LORA, rank_stabilized=True),
    "dora": dataclasses.replace(LORA, magnitude=True),
    "ia3": IA3(),
}


def with_peft(peft, config=toy.CONFIG, **parts):
    return toy.change(config, peft=peft, **parts)


def trained(config, steps=3, devices=1):
    """The state after some steps, the program, and each step's loss."""
    program = toy.program(config, devices=devices)
    state, losses = program.init(), []
    with use(program.mesh):
        for step in range(steps):
            batch = program.place(toy.batches(config).batch(step))
            state, (metrics, _) = program.step(state, batch)
            losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return state, program, losses


@pytest.mark.parametrize("name", METHODS)
def test_training_changes_the_adapters_alone(name):
    config = with_peft(METHODS[name])
    state, program, losses = trained(config)
    fresh = program.init()
    assert losses[-1] < losses[0]
    toy.assert_same_bits(state.frozen["params"], fresh.frozen["params"])
    names = flatten_dict(state.params, sep="/")
    assert names and all(adapted.of_adapters(config.peft, name) for name in names)


@pytest.mark.parametrize("name", METHODS)
def test_training_begins_at_the_base(name):
    plain, config = toy.program(toy.CONFIG), with_peft(METHODS[name])
    program = toy.program(config)
    batch = program.place(toy.batches(config).batch(0))
    state, base = program.init(), plain.init()
    toy.assert_same_bits(state.frozen["params"], base.params)
    with use(program.mesh):
        ours = program.evaluate(state.params, state.frozen, {}, batch)["loss"][0]
        theirs = plain.evaluate(base.params, {}, {}, batch)["loss"][0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_merged_weights_give_the_same(name):
    config = with_peft(METHODS[name], model={"biases": "all"})
    state, program, _ = trained(config)
    plain = toy.program(toy.change(config, peft=PartialTuning(("*",))))
    batch = program.place(toy.batches(config).batch(7))
    whole = variables(state.params, state.frozen)["params"]
    merged = adapted.merged(config.peft, plain.model, program.batch, whole)
    with use(program.mesh):
        ours = program.evaluate(state.params, state.frozen, {}, batch)["loss"][0]
        theirs = plain.evaluate(merged, {}, {}, batch)["loss"][0]
        base = plain.evaluate(state.frozen["params"], {}, {}, batch)["loss"][0]
    assert abs(ours - base) > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


LAYOUTS = {
    "unrolled": (1, {"unroll": 2}),
    "remat": (1, {"remat": DotsRemat()}),
    "microbatches": (1, {"microbatches": 2}),
    "fsdp and tensor": (8, {"data": 1, "fsdp": 4, "tensor": 2}),
    "pipeline": (2, {"data": 1, "pipeline": Pipeline(2), "microbatches": 2}),
}


@pytest.fixture(scope="module")
def plainly():
    """Losses of each method on one device."""
    names = ("lora", "dora", "ia3")
    return {name: trained(with_peft(METHODS[name]))[2] for name in names}


@pytest.mark.parametrize("name", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(plainly, name, layout):
    devices, fields = LAYOUTS[layout]
    config = with_peft(METHODS[name], layout=LayoutConfig(**fields))
    _, _, losses = trained(config, devices=devices)
    np.testing.assert_allclose(losses, plainly[name], rtol=2e-5)


def test_experts_are_adapted_too():
    mlp = Mixture(num_experts=4, top_k=2, d_ff=16)
    config = with_peft(LORA, model={"mlp": mlp})
    state, _, losses = trained(config)
    names = flatten_dict(state.params, sep="/")
    kernel = "transformer/stack/group_0/layer_0/mlp/experts/up/kernel_lora/a"
    assert names[kernel].shape == (2, 4, 16, 4), sorted(names)  # L E D R
    assert losses[-1] < losses[0]


def test_no_gradient_and_no_moment_has_the_shape_of_the_base():
    wide = {"model": {"d_ff": 4096}}
    programs = [
        toy.program(toy.change(toy.CONFIG, **wide)),
        toy.program(with_peft(LoRA(rank=2), **wide)),
    ]
    memory = []
    for program in programs:
        with use(program.mesh):
            step = program.step.lower(program.restorable(), program.batch).compile()
        memory.append(step.memory_analysis())
    size = sum(x.size * 4 for x in jax.tree.leaves(programs[0].abstract.params))
    saved = memory[0].argument_size_in_bytes - memory[1].argument_size_in_bytes
    assert saved > 1.9 * size
    assert memory[0].temp_size_in_bytes - memory[1].temp_size_in_bytes > 0.9 * size


def test_a_head_of_classes_is_trained_too():
    config = with_peft(LORA, toy.classifier(toy.CONFIG))
    program = toy.program(config)
    names = flatten_dict(program.abstract.params, sep="/")
    assert {n for n in names if "lora" not in n} == {
        "classifier/kernel",
        "classifier/bias",
    }


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ((), {"classifier/kernel", "classifier/bias"}),
        (("*/attention_norm/*",), {"scale", "kernel", "bias"}),
    ],
)
def test_some_of_the_weights_are_trained(train, names):
    config = with_peft(PartialTuning(train), toy.classifier(toy.CONFIG))
    program = toy.program(config)
    there = flatten_dict(program.abstract.params, sep="/")
    assert {n if n in names else n.rpartition("/")[2] for n in there} == names


def test_a_run_is_resumed_and_read_merged(tmp_path):
    config = with_peft(LORA, toy.NOISY)
    program = toy.program(config)
    source = toy.batches(config)
    whole, _ = loop.fit(program, source, source, tmp_path / "whole", progress=False)
    parts = tmp_path / "parts"
    stop = toy.Interrupted(source, 6, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop.fit(program, stop, source, parts, progress=False)
    again, _ = loop.fit(toy.program(config), source, source, parts, progress=False)
    toy.assert_same_bits(again.params, whole.params)
    step, read, params = checkpoints.read(parts)
    assert read.peft.kind == "full" and step
    plain = toy.program(read)
    assert jax.tree.structure(params) == jax.tree.structure(plain.abstract.params)
    base = whole.frozen["params"]
    kernel = ("transformer", "stack", "group_0", "layer_0", "mlp", "up", "kernel")
    ours, theirs = flatten_dict(params)[kernel], flatten_dict(base)[kernel]
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() > 1e-4


@pytest.mark.parametrize(
    ("peft", "says"),
    [
        (LoRA(targets=("querry",)), "targets 'querry', which is no matrix.*query"),
        (LoRA(targets=("query",), train=("*/nrm/*",)), "peft.train has '\\*/nrm/\\*'"),
        (
            LoRA(rank=17),
            "rank=17 is more than the rank of .*16 × 16; set it to 16",
        ),
        (LoRA(targets=("table",)), "table"),
        (PartialTuning(), "trains nothing"),
    ],
)
def test_what_cannot_be_is_said(peft, says):
    with pytest.raises(ValueError, match=says):
        toy.program(with_peft(peft))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LoRA(rank=0), "rank is 0"),
        (lambda: LoRA(targets=()), "choose no matrix"),
        (lambda: LoRA(dropout=1.0), "leaves nothing"),
    ],
)
def test_configs_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
