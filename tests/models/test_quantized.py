"""8-bit matmuls: where they are in a program, how far off, and that they compose."""

import dataclasses
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from qwix._src.core import dot_general_qt

from llmjax.config import (
    BFloat16,
    Capacity,
    DotsRemat,
    Dropless,
    Fp8,
    FullRemat,
    Int8,
    LayoutConfig,
    Mixture,
    NoQuantization,
)
from llmjax.models import quantized
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel import mesh as mesh_lib
from tests.models.dots import eight_bit
from tests.train import toy

PROJECTIONS = 7  # query, key, value, out, gate, up, down
HOW = [Int8(), Fp8(), Int8(backward=False), Fp8(backward=False)]
OFF = {"int8": 0.03, "fp8": 0.12}  # of a gradient, relative to its norm
BATCH = {"tokens": jnp.arange(24).reshape(2, 12) * 7 % 40}


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


def off(got, want) -> float:
    """The largest |got - want| / |want| of two trees' leaves."""
    errors = jax.tree.map(
        lambda a, b: jnp.linalg.norm(a - b) / jnp.linalg.norm(b), got, want
    )
    return float(max(jax.tree.leaves(errors)))


def gradient(cfg, how, **layout):
    """Of a random sum of a model's logits, jitted."""
    model = LanguageModel(cfg, LayoutConfig(quantization=how, **layout))

    def loss(params):
        logits_BTV, _ = model.apply({"params": params}, BATCH)
        return jnp.sum(logits_BTV * normal(2, 12, 40, seed=2))

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize(
    ("equation", "x", "kernel"),
    [
        ("BTD,DNH->BTNH", (2, 3, 4), (4, 5, 6)),
        ("BTNH,NHD->BTD", (2, 3, 4, 5), (4, 5, 6)),
        ("BECI,EIO->BECO", (2, 3, 4, 5), (3, 5, 6)),
        ("BTD,DF->FBT", (2, 3, 4), (4, 5)),
    ],
)
@pytest.mark.parametrize("how", HOW[:2])
def test_einsum_is_numpys_to_its_rounding(equation, x, kernel, how):
    x, kernel = normal(*x), normal(*kernel, seed=1)
    got = jax.jit(quantized.einsum, static_argnums=(0, 1))(how, equation, x, kernel)
    want = np.einsum(equation, x, kernel)
    assert got.shape == want.shape
    assert 0 < off(got, want) < OFF[how.kind]


@pytest.mark.parametrize("how", HOW, ids=repr)
def test_projections_of_layers_and_nothing_else_are_of_8_bits(tiny, random_params, how):
    model = LanguageModel(tiny)
    params = random_params(model, BATCH)
    grad = gradient(tiny, how, remat=DotsRemat())
    found = eight_bit(grad.lower(params).compiler_ir("hlo").as_hlo_text())
    backward = 2 * PROJECTIONS if how.backward else 0
    if how.kind == "int8":
        assert found == {("forward", "s8", "s8"): PROJECTIONS + backward}
    else:
        expected = {
            ("forward", "f8e4m3fn", "f8e4m3fn"): PROJECTIONS,
            ("forward", "f8e5m2", "f8e4m3fn"): backward,
        }
        assert found == {k: n for k, n in expected.items() if n}


def test_gradients_are_the_unquantised_to_their_rounding(tiny, random_params):
    params = random_params(LanguageModel(tiny), BATCH, std=0.1)
    want = gradient(tiny, NoQuantization())(params)
    for how in HOW:
        error = off(gradient(tiny, how)(params), want)
        assert 1e-3 < error < OFF[how.kind], (how, error)


def test_the_weights_are_those_of_the_same_model_without(tiny):
    def init(how):
        model = LanguageModel(tiny, LayoutConfig(quantization=how))
        return jax.jit(lambda: model.init(jax.random.key(0), BATCH)["params"])()

    wide, narrow = init(NoQuantization()), init(Int8())
    assert jax.tree.structure(wide) == jax.tree.structure(narrow)  # boxes too
    toy.assert_same_bits(nn.unbox(wide), nn.unbox(narrow))


@pytest.mark.slow
def test_it_trains_on_a_mesh_under_scan_and_remat_as_on_one_device():
    layout = {"quantization": Int8(), "remat": FullRemat(), "precision": BFloat16()}
    one = toy.program(toy.change(toy.CONFIG, layout=layout))
    mesh = {"data": 1, "fsdp": 4, "tensor": 2}
    many = toy.program(toy.change(toy.CONFIG, layout=layout | mesh), devices=8)
    batches = toy.batches(toy.CONFIG)

    def losses(program):
        state = program.init()
        for step in range(6):
            with mesh_lib.use(program.mesh):
                rows = program.place(batches.batch(step))
                state, (metrics, _) = program.step(state, rows)
            yield float(metrics["loss"][0] / metrics["loss"][1])

    here, there = list(losses(one)), list(losses(many))
    np.testing.assert_allclose(here, there, rtol=2e-2)
    assert here[-1] < here[0] - 0.1


@pytest.mark.parametrize("how", HOW, ids=repr)
def test_ragged_dots_are_near_jaxs_forward_and_backward(how):
    x_XI, kernel_EIO, weights = normal(24, 16), normal(3, 16, 8), normal(24, 8, seed=1)
    sizes_E = jnp.array([10, 0, 14])

    def run(how):
        def loss(x, kernel):
            y = quantized.ragged_dot(how, x, kernel, sizes_E)
            return jnp.sum(y * weights), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    (got, y), (want, wide) = (run(h)(x_XI, kernel_EIO) for h in (how, NoQuantization()))
    nonzero = jnp.array([0, 2])
    got, want = ((x, kernel[nonzero]) for x, kernel in (got, want))
    assert 1e-3 < off((got, y), (want, wide)) < OFF[how.kind]
    types = (
        ("s8",) if how.kind == "int8" else ("f8e4m3fn", "f8e5m2")[: 1 + how.backward]
    )
    hlo = run(how).lower(x_XI, kernel_EIO).compiler_ir("hlo").as_hlo_text()
    assert all(f" = {t}[" in hlo for t in types)


@pytest.mark.parametrize("dispatch", [Capacity(2.0), Dropless()])
def test_experts_are_of_8_bits_and_their_router_is_not(tiny, random_params, dispatch):
    mixture = Mixture(num_experts=4, top_k=2, d_ff=24, dispatch=dispatch)
    cfg = dataclasses.replace(tiny, mlp=mixture)
    params = random_params(LanguageModel(cfg), BATCH)
    grad = gradient(cfg, Int8())
    found = eight_bit(grad.lower(params).compiler_ir("hlo").as_hlo_text()).total()
    ragged = re.findall(
        r":i32\[[\d,]+\] = ragged_dot_general", str(grad.trace(params).jaxpr)
    )
    if isinstance(dispatch, Capacity):
        assert found == 3 * PROJECTIONS
    else:
        assert len(ragged) == 3 * 3


def test_a_kernel_that_a_shard_map_repeats_gets_the_sum_of_its_gradients():
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    x_BD, kernel_DF = normal(16, 8), normal(8, 4, seed=1)

    def loss(kernel, x, how):
        def local(x, kernel):
            return quantized.einsum(how, "BD,DF->BF", x, kernel)

        y = jax.shard_map(
            local, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
        )(x, kernel)
        return jnp.sum(y**2)

    grad = jax.jit(jax.grad(loss), static_argnums=2)
    want = grad(kernel_DF, x_BD, NoQuantization())
    assert 0 < off(grad(kernel_DF, x_BD, Int8()), want) < OFF["int8"]


@pytest.fixture
def fresh():
    """Without the matmuls that earlier tests looked up, and none left behind."""
    quantized.training_matmuls.cache_clear()
    yield
    quantized.training_matmuls.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_the_installed_qwix_has_what_is_used():
    matmuls = quantized.training_matmuls()
    assert matmuls.dot_general is dot_general_qt.dot_general_qt


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        ("dot_general_qt", "has no attribute 'dot_general_qt'"),
        ("DotGeneralQtConfig", "DotGeneralQtConfig has no drhs_grad_qtype, lhs_qtype"),
    ],
)
def test_a_qwix_that_lacks_it_is_named_with_the_remedy(lacking, says, monkeypatch):
    if lacking == "DotGeneralQtConfig":
        other = dataclasses.make_dataclass(
            lacking, ["rhs_qtype", "dlhs_grad_qtype", "use_original_residuals"]
        )
        monkeypatch.setattr(dot_general_qt, lacking, other)
    else:
        monkeypatch.delattr(dot_general_qt, lacking)
    with pytest.raises(ImportError, match=rf"{says}.*pip install 'qwix==0\.1\.8'"):
        quantized.check(Int8())


@pytest.mark.usefixtures("fresh")
def test_without_the_library_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    quantized.check(NoQuantization())
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'llmjax\[quant"):
        quantized.check(Fp8())
