"""Where arrays really lie on eight devices: parameters, activations, the report."""

import contextlib
import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llmjax import config
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.axes import batch_sharding, tree_shardings
from llmjax.parallel.mesh import make_mesh, use
from llmjax.parallel.report import format_report, sharding_report

BATCH = {"tokens": jnp.arange(96).reshape(8, 12) % 40}
LAYOUTS = {
    "fsdp and tensor": config.LayoutConfig(data=2, fsdp=2, tensor=2),
    "sequence": config.LayoutConfig(fsdp=2, sequence=2, tensor=2),
}


@pytest.fixture(scope="module")
def model(tiny):
    cfg = dataclasses.replace(
        tiny, tie_embeddings=False, positions=config.Learned(14), biases="all"
    )
    return LanguageModel(cfg)


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model, BATCH)


@pytest.fixture(scope="module")
def axes(model):
    """Logical names of every parameter, as the boxes of an abstract init hold them."""
    boxed = jax.eval_shape(model.init, jax.random.key(0), BATCH)["params"]
    return jax.tree.map(
        lambda b: b.names, boxed, is_leaf=lambda b: isinstance(b, nn.Partitioned)
    )


def test_every_parameter_names_every_axis(params, axes):
    def check(p, a):
        assert len(a) == p.ndim

    jax.tree.map(check, params, axes)
    layer = axes["transformer"]["stack"]["group_0"]["layer_0"]
    assert layer["attention"]["query"]["kernel"] == ("L", "D", "N", "H")
    assert layer["attention"]["key"]["bias"] == ("L", "K", "H")
    assert layer["mlp"]["down"] == {
        "kernel": ("L", "F", "D"),
        "bias": ("L", "D_vector"),
    }
    assert axes["unembedding"] == ("V", "D")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_report_is_what_devices_hold(name, params, axes):
    mesh = make_mesh(LAYOUTS[name])
    placed = jax.device_put(params, tree_shardings(params, axes, mesh))
    rows = {row.name: row for row in sharding_report(params, axes, mesh)}
    leaves = jax.tree_util.tree_leaves_with_path(placed)
    assert len(rows) == len(leaves)
    for path, leaf in leaves:
        row = rows[jax.tree_util.keystr(path, simple=True, separator="/")]
        assert (row.shape, row.dtype) == (leaf.shape, "float32")
        assert {s.data.nbytes for s in leaf.addressable_shards} == {
            row.bytes_per_device
        }
    assert any(not leaf.is_fully_replicated for _, leaf in leaves)
    text = format_report(list(rows.values())).splitlines()
    total = sum(row.bytes_per_device for row in rows.values())
    assert text[-1].split() == ["total", f"{total:,}"]
    sizes = [int(line.split()[-1].replace(",", "")) for line in text[1:-1]]
    assert sizes == sorted(sizes, reverse=True)
    (query,) = (line for line in text if "attention/query/kernel" in line)
    assert "2x16x4x6" in query
    assert "L D N H" in query
    assert "pipeline fsdp tensor -" in query


def pinned(model, params, mesh, enter) -> dict[tuple[int, ...], list[str]]:
    """Shape -> what each of its dimensions is pinned to in the program as traced."""
    with enter:
        text = jax.jit(model.apply).lower({"params": params}, BATCH).as_text()
    found = re.findall(
        r"sdy\.sharding_constraint .*?<@mesh, \[(.*?)\]> : tensor<([\dx]+)xf32>", text
    )
    pins = {
        tuple(map(int, shape.split("x"))): re.findall(r"\{(.*?)\}", spec)
        for spec, shape in found
    }
    open_everywhere = ["?", "?", "?"]  # what a device makes by itself: no pin
    return {shape: pin for shape, pin in pins.items() if pin != open_everywhere}


ROWS = '"data", "fsdp", "expert"'
ALL_ROWS = '"data", "fsdp", "expert", "pipeline"'  # outside of the layers


def test_activations_are_pinned_at_four_places(model, params):
    mesh = make_mesh(LAYOUTS["fsdp and tensor"])
    assert pinned(model, params, mesh, use(mesh)) == {
        (8, 12, 16): [ALL_ROWS, '"sequence"', ""],  # embeddings
        (8, 12, 4, 6): [ROWS, '"sequence"', '"tensor"', ""],  # queries
        (8, 12, 2, 6): [ROWS, '"sequence"', '"tensor"', ""],  # keys and values
        (8, 12, 24): [ROWS, '"sequence"', '"tensor"'],  # inside the mlp
        (8, 12, 40): [ALL_ROWS, '"sequence"', '"tensor"'],  # logits
    }


@pytest.mark.parametrize("enter", [contextlib.nullcontext, jax.set_mesh])
def test_without_the_helper_nothing_is_pinned(enter, model, params):
    """What the helper is for: the mesh alone leaves Linen's constraints silent."""
    mesh = make_mesh(LAYOUTS["fsdp and tensor"])
    entered = enter(mesh)
    assert pinned(model, params, mesh, entered) == {}


@pytest.mark.parametrize("name", LAYOUTS)
def test_compiled_activations_lie_as_the_table_says(
    name, model, params, axes, quick_compile
):
    """And the logits are those of one device."""
    mesh = make_mesh(LAYOUTS[name])
    want, _ = jax.jit(model.apply)({"params": params}, BATCH)
    placed = jax.device_put(params, tree_shardings(params, axes, mesh))
    batch = jax.device_put(BATCH, batch_sharding(mesh, BATCH))

    def forward(params, batch):
        logits, _ = model.apply({"params": params}, batch)
        return logits

    with use(mesh):
        got = jax.jit(forward)(placed, batch)
    rows, columns, V = want.shape
    cut = got.addressable_shards[0].data.shape
    if name == "sequence":
        assert cut == (rows // 2, columns // 2, V // 2)
    else:
        assert cut == (rows // 4, columns, V // 2)
        assert got.sharding.spec == P(("data", "fsdp"), None, "tensor")
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    if name != "sequence":
        bare = jax.jit(forward)({**params}, BATCH)
        assert bare.is_fully_replicated
