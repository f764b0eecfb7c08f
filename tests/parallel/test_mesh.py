"""The mesh from its layout, with what a person reads when it cannot be."""

import jax
import pytest
from jax.sharding import AxisType

from llmjax.config import LayoutConfig
from llmjax.parallel.axes import MESH_AXES
from llmjax.parallel.mesh import batch_shards, check_batch, make_mesh


def test_axes_stand_outermost_first_and_are_auto():
    mesh = make_mesh(LayoutConfig(data=2, fsdp=2, tensor=2))
    assert mesh.axis_names == MESH_AXES
    assert dict(mesh.shape) == {a: 1 for a in MESH_AXES} | {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
    }
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("layout", "axis", "size"),
    [
        (LayoutConfig(), "data", 8),
        (LayoutConfig(tensor=2), "data", 4),
        (LayoutConfig(data=2, fsdp=-1), "fsdp", 4),
        (LayoutConfig(fsdp=8), "data", 1),
    ],
)
def test_minus_one_takes_what_is_left(layout, axis, size):
    assert make_mesh(layout).shape[axis] == size


def test_fewer_devices_may_be_given():
    mesh = make_mesh(LayoutConfig(tensor=2), jax.devices()[:4])
    assert mesh.size == 4
    assert batch_shards(mesh) == 2


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (LayoutConfig(data=2, tensor=2), "asks for 4 devices .* there are 8; make"),
        (LayoutConfig(data=16), r"asks for 16 devices \(data=16\) and there are 8"),
        (
            LayoutConfig(tensor=3),
            "3 devices .*tensor=3.* there are 8; .* one of them -1",
        ),
        (LayoutConfig(data=-1, fsdp=-1), "data=-1, fsdp=-1; .*at most one be -1"),
        (LayoutConfig(tensor=0), "tensor=0; each axis must be positive"),
        (LayoutConfig(data=1, tensor=-2), "tensor=-2; each axis must be positive"),
    ],
)
def test_a_product_that_is_not_the_devices_is_refused(layout, says):
    with pytest.raises(ValueError, match=says):
        make_mesh(layout)


def test_a_batch_that_does_not_divide_names_itself_and_the_remedy():
    mesh = make_mesh(LayoutConfig(data=2, fsdp=2, sequence=2))
    check_batch(24, 10, 3, mesh)
    with pytest.raises(
        ValueError, match="data.batch_size=18 .* 4 dev.* multiple of 12"
    ):
        check_batch(18, 10, 3, mesh)
    with pytest.raises(ValueError, match="data.batch_size=4 .* multiple of 12"):
        check_batch(4, 10, 3, mesh)
    with pytest.raises(ValueError, match="data.seq_len=9 .*layout.sequence=2"):
        check_batch(24, 9, 3, mesh)
