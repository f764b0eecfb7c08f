"""The one table: from logical axes to the mesh, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llmjax.config import LayoutConfig
from llmjax.parallel.axes import (
    MESH_AXES,
    RULES,
    batch_sharding,
    partition_spec,
    sharding,
    shards,
    tree_shardings,
)
from llmjax.parallel.mesh import make_mesh


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(LayoutConfig(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    ("axes", "spec"),
    [
        (("V", "D"), P("tensor", "fsdp")),
        (("L", "D", "N", "H"), P("pipeline", "fsdp", "tensor", None)),
        (("D_vector",), P(None)),
        ((None, "D"), P(None, "fsdp")),
        (("act_B", "act_T", "act_D"), P(("data", "fsdp", "expert"), "sequence", None)),
        ((), P()),
    ],
)
def test_the_table_gives_a_spec(axes, spec):
    assert partition_spec(axes, "x") == spec


def test_the_table_names_only_mesh_axes():
    for _, entry in RULES:
        assert set((entry,) if isinstance(entry, str) else entry or ()) <= {*MESH_AXES}


def test_an_unknown_axis_is_named():
    with pytest.raises(ValueError, match="mlp/up has the logical axis 'Q'.*knows L, D"):
        partition_spec(("D", "Q"), "mlp/up")


def test_two_axes_on_one_mesh_axis_are_named():
    with pytest.raises(ValueError, match="w: .*'D' and 'D' both lie on .*'fsdp'"):
        partition_spec(("D", "D"), "w")
    with pytest.raises(ValueError, match="'act_B' and 'D' both lie on .*'fsdp'.*rule"):
        partition_spec(("act_B", "D"), "w")


def test_shards_counts_devices(mesh):
    assert [shards(e, mesh) for e in (None, "tensor", ("data", "fsdp", "expert"))] == [
        1,
        2,
        4,
    ]


def test_a_size_that_does_not_divide_names_tensor_axis_and_remedy(mesh):
    with pytest.raises(ValueError) as error:
        sharding("mlp/up/kernel", (16, 25), ("D", "F"), mesh)
    message = str(error.value)
    for part in ("mlp/up/kernel", "'F' of size 25", "'tensor' of size 2"):
        assert part in message
    assert "multiple of 2" in message
    assert "layout.tensor" in message


def test_the_remedy_for_several_mesh_axes_names_fields_of_the_layout(mesh):
    with pytest.raises(ValueError, match="'act_B' of size 6") as error:
        sharding("x", (6, 4), ("act_B", "act_T"), mesh)
    message = str(error.value)
    assert "multiple of 4" in message
    assert "layout.(" not in message
    assert all(f"layout.{axis}" in message for axis in ("data", "fsdp", "expert"))


def test_a_tree_names_the_leaf_that_does_not_divide(mesh):
    shapes = {
        "a": {"kernel": jax.ShapeDtypeStruct((4, 6), "float32")},
        "b": jax.ShapeDtypeStruct((5,), "float32"),
    }
    axes = {"a": {"kernel": ("D", "F")}, "b": ("D_vector",)}
    got = tree_shardings(shapes, axes, mesh)
    assert got["a"]["kernel"].spec == P("fsdp", "tensor")
    assert got["b"].spec == P(None)
    with pytest.raises(
        ValueError, match="^b has shape .*'F' of size 5 does not divide"
    ):
        tree_shardings(shapes, axes | {"b": ("F",)}, mesh)


def test_a_batch_lies_over_rows_and_sequence():
    mesh = make_mesh(LayoutConfig(data=2, fsdp=2, sequence=2))
    batch = {"tokens": jnp.zeros((8, 6), int), "label": np.zeros(8), "step": 3}
    placed = jax.device_put(batch, batch_sharding(mesh, batch))
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 3)
    assert placed["label"].addressable_shards[0].data.shape == (2,)
    assert placed["step"].is_fully_replicated
