"""ZeRO-1 and host memory: what lies where, and that nothing else changes."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llmjax.parallel.mesh import make_mesh, use
from llmjax.train import placement
from tests.train import toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]

MIXED = {"data": 2, "fsdp": 2, "tensor": 2}


def run(layout, steps=2, **parts):
    """Program, state after some steps on eight devices, what it said, the program."""
    config = toy.change(toy.CONFIG, layout=layout, **parts)
    program = toy.program(config, devices=8)
    batches, state = toy.batches(config), program.init()
    with use(program.mesh):
        batch = program.place(batches.batch(0))
        step = program.step.lower(program.restorable(), batch).compile()
        for i in range(steps):
            state, out = step(state, program.place(batches.batch(i)))
    return program, state, jax.device_get(out), step.as_text()


def bytes_of(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_data_goes_to_the_largest_dimension_that_it_divides():
    mesh = make_mesh(dataclasses.replace(toy.CONFIG.layout, **MIXED))

    def spread(shape, axes, *entries):
        return placement.spread(shape, axes, P(*entries), mesh)

    kernel = "L", "D", "F"
    assert spread((4, 8, 4), kernel, None, "fsdp", "tensor") == P(
        None, ("fsdp", "data"), "tensor"
    )
    assert spread((4, 6, 8), kernel, None, "fsdp", "tensor") == P(
        None, "fsdp", ("tensor", "data")
    )
    # D = 2 per device takes it before L = 4; D = 3 does not, and L must
    assert spread((4, 2), ("L", "D_vector"), None, None) == P(None, "data")
    assert spread((4, 3), ("L", "D_vector"), None, None) == P("data", None)
    assert spread((3, 3), ("L", "D_vector"), None, None) == P(None, None)
    assert spread((8,), (None,), None) == P(None)  # nobody's weight


def test_zero_cuts_gradients_and_the_optimizers_state_over_data():
    """All of it but the counts; updates are as without."""
    layout = {"data": 4, "tensor": 2, "microbatches": 2}
    optimizer = {"ema": 0.9}
    _, plain, want, text = run(layout, optimizer=optimizer)
    layout["optimizer_sharding"] = "data"
    _, zero, got, zero_text = run(layout, optimizer=optimizer)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    jax.tree.map(close, jax.device_get(zero), jax.device_get(plain))
    jax.tree.map(close, got, want)
    assert bytes_of(zero.params) == bytes_of(plain.params)
    assert bytes_of(zero.opt_state) < bytes_of(plain.opt_state) / 3.9
    # [L, D, F / tensor] of the kernel `up`, in the loop over microbatches
    whole, cut = "f32[2,16,16]", "f32[2,4,16]"
    assert cut in carried(zero_text)
    assert cut not in carried(text) and whole in carried(text)
    # a CPU has no reduce-scatter: gradients are summed whole, then cut
    assert len(re.findall(r" all-gather(-start)?\(", zero_text)) > len(
        re.findall(r" all-gather(-start)?\(", text)
    )


def carried(text):
    """Types of what the outermost loop of a compiled step carries."""
    entry = text[text.index("ENTRY") :]
    return " ".join(re.findall(r"= \((.*?)\) while\(", entry))


def test_state_in_host_memory_is_updated_as_on_the_device():
    _, plain, want, _ = run(MIXED)
    program, host, got, _ = run(MIXED | {"optimizer_memory": "host"})
    toy.assert_same_bits(jax.device_get(host), jax.device_get(plain))
    toy.assert_same_bits(got, want)
    kinds = {
        leaf.sharding.memory_kind
        for leaf in jax.tree.leaves(host.opt_state)
        if leaf.size > 1
    }
    assert kinds == {placement.HOST}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(host.params)} == {"device"}
    restarted = program.with_params(host, host.params)
    for a, b in zip(jax.tree.leaves(restarted), jax.tree.leaves(host), strict=True):
        assert a.sharding == b.sharding


def test_devices_without_host_memory_are_refused_by_name():
    class Bare:
        device_kind = "abacus"

        def addressable_memories(self):
            return []

    with pytest.raises(ValueError, match="optimizer_memory is 'host' and abacus has"):
        placement.check_host(Bare())
