"""Adapters of low rank (Hu et al. 2021, arXiv:2106.09685), by interception."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from llmjax.models.heads.language import LanguageModel
from llmjax.models.layers import Projection
from llmjax.parallel.axes import param_axes
from llmjax.parallel.mesh import use
from llmjax.train.state import WithAxes
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compile")

RANK = 4
WIDE = toy.change(toy.CONFIG, model={"d_ff": 4096})


def adapt(call, args, kwargs, context):
    """x W + x A B beside every query and value, in the scan over layers too."""
    module, y = context.module, call(*args, **kwargs)
    adapted = isinstance(module, Projection) and module.name in ("query", "value")
    if not adapted or context.method_name != "__call__":
        return y
    normal = nn.with_logical_partitioning(nn.initializers.normal(0.1), ("D", None))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, None))
    (x,) = args
    features = int(np.prod(module.shape[1:]))
    down = module.param("adapter_down", normal, (x.shape[-1], RANK))
    up = module.param("adapter_up", zeros, (RANK, features))
    return y + (x @ down @ up).reshape(y.shape)


class Adapted(LanguageModel):
    """A language model with adapters, its other weights under their own names."""

    def __call__(self, batch, *rest):
        with nn.intercept_methods(adapt):
            return super().__call__(batch, *rest)

    def outputs(self, batch):
        with nn.intercept_methods(adapt):
            return super().outputs(batch)


@pytest.fixture(scope="module")
def base():
    """Weights of a model without adapters, and their axes."""
    batch = {"tokens": np.zeros((1, 4), np.int32)}
    model = LanguageModel(WIDE.model)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(3), batch))["params"]
    return WithAxes(jax.device_get(params), param_axes(model, batch)[1])


def memory(program):
    with use(program.mesh):
        step = program.step.lower(program.restorable(), program.batch).compile()
    return step.memory_analysis()


def test_only_the_adapters_are_trained(base):
    model = Adapted(WIDE.model)
    program = toy.program(WIDE, model=model, frozen={"params": base})
    state = program.init()
    names = flatten_dict(state.params, sep="/")
    assert names and all("/adapter_" in name for name in names)
    batch = program.place(toy.batches(WIDE).batch(0))
    plain = toy.program(WIDE)
    with use(program.mesh):
        before = program.evaluate(state.params, state.frozen, {}, batch)
        alone = plain.evaluate(base.values, {}, {}, batch)
        for _ in range(3):
            state, _ = program.step(state, batch)
        after = program.evaluate(state.params, state.frozen, {}, batch)
    assert after["loss"][0] < before["loss"][0] == alone["loss"][0]
    toy.assert_same_bits(jax.device_get(state.frozen["params"]), base.values)


def test_the_step_holds_no_gradient_and_no_moment_of_the_base(base):
    model = Adapted(WIDE.model)
    adapters = memory(toy.program(WIDE, model=model, frozen={"params": base}))
    all_weights = memory(toy.program(WIDE, model=model))
    size = sum(x.nbytes for x in jax.tree.leaves(base.values))
    moments = all_weights.argument_size_in_bytes - adapters.argument_size_in_bytes
    assert moments == 2 * size
    gradient = all_weights.temp_size_in_bytes - adapters.temp_size_in_bytes
    assert gradient > 0.9 * size
