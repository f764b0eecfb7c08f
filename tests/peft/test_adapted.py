"""Adapters in training: what is trained, in what layouts, and merged back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.config import (
    C3A,
    HRA,
    IA3,
    AdaLoRA,
    DotsRemat,
    LayoutConfig,
    LoRA,
    Mixture,
    PartialTuning,
    Pipeline,
    PiSSA,
    ScheduleFree,
    SHiRA,
    VeRA,
)
from llmjax.models.forward import variables
from llmjax.parallel.mesh import use
from llmjax.peft import adapted, allocation, rates
from llmjax.train import loop
from llmjax.train.checkpoints import reading
from llmjax.train.optimizers import optimizers
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
ALL = ("*/attention/*", "*/mlp/*")
LORA = LoRA(rank=4, targets=ALL)
METHODS = {
    "lora": LORA,
    "dora": dataclasses.replace(LORA, rank_stabilized=True, magnitude=True),
    "ia3": IA3(),
    "adalora": AdaLoRA(rank=4, target_rank=2, targets=ALL),
    "shira": SHiRA(rank=2, targets=ALL),
    "hra": HRA(rank=4, targets=ALL),
}
CONFIG = toy.change(toy.CONFIG, model={"biases": "all"})


def with_peft(peft, config=CONFIG, **parts):
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


@pytest.fixture(scope="module")
def tuned():
    """What `trained` gives of each method on one device, once."""
    return functools.cache(lambda name: trained(with_peft(METHODS[name])))


@pytest.fixture(scope="module")
def plain():
    """The program of the model without adapters."""
    return toy.program(CONFIG)


def loss_of(program, params, frozen, batch):
    with use(program.mesh):
        return float(program.evaluate(params, frozen, {}, batch)["loss"][0])


def of_base(peft, state):
    """The frozen weights that are no adapters'."""
    flat = flatten_dict(state.frozen["params"], sep="/")
    own = {k: x for k, x in flat.items() if not adapted.of_adapters(peft, k)}
    return unflatten_dict(own, sep="/")


@pytest.mark.parametrize("name", METHODS)
def test_adapters_alone_change_and_merge(name, tuned, plain):
    """They begin at the base, learn, and give the same in the base's own matrices."""
    state, program, losses = tuned(name)
    fresh, base = program.init(), plain.init()
    peft = program.config.peft
    toy.assert_same_bits(of_base(peft, fresh), base.params)
    toy.assert_same_bits(of_base(peft, state), base.params)
    names = flatten_dict(state.params, sep="/")
    assert names and all(adapted.of_adapters(peft, name) for name in names)
    assert losses[-1] < losses[0]
    batch = program.place(toy.batches(CONFIG).batch(7))
    before = loss_of(plain, base.params, {}, batch)
    began = loss_of(program, fresh.params, fresh.frozen, batch)
    np.testing.assert_allclose(began, before, rtol=1e-6)
    whole = variables(state.params, state.frozen)["params"]
    merged = adapted.merged(peft, plain.model, program.batch, whole)
    ours = loss_of(program, state.params, state.frozen, batch)
    assert abs(ours - before) > 1e-3
    theirs = loss_of(plain, merged, {}, batch)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


LAYOUTS = {
    "unrolled": (1, {"unroll": 2}),
    "remat": (1, {"remat": DotsRemat()}),
    "microbatches": (1, {"microbatches": 2}),
    "fsdp and tensor": (8, {"data": 1, "fsdp": 4, "tensor": 2}),
    "pipeline": (2, {"data": 1, "pipeline": Pipeline(2), "microbatches": 2}),
}
CASES = [
    *(("lora", layout) for layout in LAYOUTS),
    *((name, "fsdp and tensor") for name in ("dora", "ia3", "adalora")),
    *((name, "pipeline") for name in ("dora", "shira")),
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_layout_gives_the_same(name, layout, tuned):
    devices, fields = LAYOUTS[layout]
    config = with_peft(METHODS[name], layout=LayoutConfig(**fields))
    _, _, losses = trained(config, devices=devices)
    np.testing.assert_allclose(losses, tuned(name)[2], rtol=2e-5)


def test_the_scale_of_many_ranks():
    assert LoRA(rank=4, alpha=8.0).scale == 2.0
    assert LoRA(rank=4, alpha=8.0, rank_stabilized=True).scale == 4.0


def test_experts_are_adapted_too():
    mlp = Mixture(num_experts=4, top_k=2, d_ff=16)
    config = with_peft(LORA, model={"mlp": mlp})
    state, _, losses = trained(config, steps=2)
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


@pytest.mark.parametrize("name", ["pissa", "adalora"])
def test_a_run_is_resumed_and_read_merged(name, tmp_path):
    """With what began as a part of the base, and with ranks that are cut."""
    config = with_peft(PiSSA(rank=4, targets=ALL), toy.NOISY)
    if name == "adalora":  # of which no average is kept
        adalora = dataclasses.replace(METHODS[name], dropout=0.1)
        config = with_peft(adalora, toy.NOISY, optimizer={"ema": None})
    program = toy.program(config)
    source = toy.batches(config)
    whole, _ = loop.fit(program, source, source, tmp_path / "whole", progress=False)
    parts = tmp_path / "parts"
    stop = toy.Interrupted(source, 6, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop.fit(program, stop, source, parts, progress=False)
    again, _ = loop.fit(toy.program(config), source, source, parts, progress=False)
    toy.assert_same_bits(again, whole)
    step, read, params = reading.read(parts)
    assert read.peft.kind == "full" and step
    base = of_base(config.peft, whole)
    if name == "adalora":
        flat = flatten_dict(whole.params, sep="/")
        left = [np.count_nonzero(x) for k, x in flat.items() if k.endswith("/e")]
        matrices = sum(x.size for k, x in flat.items() if k.endswith("/e")) // 4
        assert sum(left) == 2 * matrices
    else:  # began as the base
        fresh = program.begun(program.init())
        own = flatten_dict(variables(fresh.params, fresh.frozen)["params"], sep="/")
        parts_of = [own[k] for k in own if k.endswith("up/kernel_pissa/a")]
        assert all(np.abs(x).max() > 0 for x in parts_of)
    assert jax.tree.structure(params) == jax.tree.structure(base)
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
        (AdaLoRA(rank=4, target_rank=2, final_steps=10), "leave none of train.steps"),
        (C3A(block_size=12), "block_size=12 does not divide the 16 inputs"),
        (VeRA(targets=("table",)), "table"),
    ],
)
def test_what_cannot_be_is_said(peft, says):
    with pytest.raises(ValueError, match=says):
        toy.program(with_peft(peft))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ema": 0.9}, "cuts ranks, and optimizer.ema averages"),
        ({"algorithm": ScheduleFree()}, "algorithm 'schedule_free' averages"),
    ],
)
def test_no_average_of_ranks_that_are_cut(fields, says):
    config = with_peft(METHODS["adalora"], optimizer=fields)
    with pytest.raises(ValueError, match=says):
        allocation.check(config)


def test_b_learns_at_a_rate_of_its_own():
    """LoRA+ multiplies what the learning rate has left of B's updates."""
    (rates_of_b,) = rates.transforms(dataclasses.replace(LORA, b_rate=4.0))
    scope = {"kernel_lora": {"a": jnp.ones(2), "b": jnp.ones(3)}}
    updates = {"mlp": {"up": scope}, "head": {"b": jnp.ones(1)}}
    out, _ = rates_of_b.update(updates, rates_of_b.init(updates))
    sums = {k: float(x.sum()) for k, x in flatten_dict(out, sep="/").items()}
    assert sums == {
        "mlp/up/kernel_lora/a": 2,
        "mlp/up/kernel_lora/b": 12,
        "head/b": 1,
    }
    config = with_peft(dataclasses.replace(LORA, b_rate=4.0))
    axes = {"kernel_lora": {"a": ("D", None), "b": (None, "F")}}
    own = rates.transforms(config.peft)
    chain = optimizers.make(config.optimizer, 10, axes, after=own)
    plain = optimizers.make(config.optimizer, 10, axes)
    params = {"kernel_lora": {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}}
    one, other = (o.update(params, o.init(params), params)[0] for o in (plain, chain))
    ratio = jax.tree.map(lambda x, y: float((y / x).mean()), one, other)
    assert ratio == {"kernel_lora": {"a": 1.0, "b": 4.0}}


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


def test_a_part_of_the_weights_is_read_as_a_whole(tmp_path):
    """Readers have no frozen weights: a run's are one tree, its config trains all."""
    config = with_peft(PartialTuning(("*bias",)), train={"steps": 4})
    program, source = toy.program(config), toy.batches(config)
    state, _ = loop.fit(program, source, None, tmp_path, progress=False)
    config, params = reading.load_params(tmp_path)
    assert config.peft.kind == "full"
    plain = toy.program(config)
    assert jax.tree.structure(params) == jax.tree.structure(plain.abstract.params)
    whole = variables(state.params, state.frozen)["params"]
    toy.assert_same_bits(params, jax.device_get(whole))
