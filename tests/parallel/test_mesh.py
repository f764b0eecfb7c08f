"""The mesh from its layout, with what a person reads when it cannot be."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from llmjax.config import LayoutConfig, Pipeline
from llmjax.parallel.axes import MESH_AXES
from llmjax.parallel.mesh import (
    arrange,
    batch_shards,
    check_axes,
    check_batch,
    make_mesh,
)


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
        (LayoutConfig(data=-1, fsdp=-1), "data=-1, fsdp=-1; at most one axis can"),
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


def chips(slices: int, platform: str = "tpu", kind: str = "TPU v4") -> list:
    """Of 2 x 2 x 1 each, listed in turn of their slices."""
    return [
        types.SimpleNamespace(
            id=n,
            platform=platform,
            device_kind=kind,
            coords=(n // slices % 2, n // slices // 2, 0),
            core_on_chip=0,
            slice_index=n % slices,
            process_index=0,
        )
        for n in range(4 * slices)
    ]


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_data_spans_slices_and_inner_axes_do_not(platform):
    kind = {"tpu": "TPU v4", "gpu": "H100"}[platform]
    found = arrange((4, 1, 2, 1, 1, 1), chips(2, platform, kind), 2)
    of_slice = np.vectorize(lambda d: d.slice_index)(found).reshape(4, 2)
    np.testing.assert_array_equal(of_slice, [[0, 0], [0, 0], [1, 1], [1, 1]])


def test_devices_that_know_no_slice_lie_in_blocks():
    mesh = make_mesh(LayoutConfig(data=4, tensor=2, slices=2))
    ids = [device.id for device in mesh.devices.reshape(2, 4).flat]
    assert ids == [device.id for device in jax.devices()]


@pytest.mark.parametrize(
    ("sizes", "slices", "devices", "says"),
    [
        ((1, 1, 8), 2, chips(2), "data=1 does not divide .*slices=2.* multiple of 2"),
        ((8, 1, 1), 1, chips(2), "slices=1 .* 8 TPU chips are of 2 .*set .*slices=2"),
        ((4, 1, 1), 2, chips(1), "slices=2 .* 4 TPU chips are of 1 .*set .*slices=1"),
    ],
)
def test_slices_that_are_not_there_are_refused(sizes, slices, devices, says):
    with pytest.raises(ValueError, match=says):
        arrange(sizes, devices, slices)


DENSE = {"mlp": {"up": ("L", "D", "F")}, "scale": ("D_vector",)}
BATCH = {"tokens": jax.ShapeDtypeStruct((8, 4), "int32")}


@pytest.mark.parametrize(
    ("layout", "axes", "batch", "says"),
    [
        ({"expert": 2}, DENSE, BATCH, "layout.expert=2 is for experts.* no .* axis E;"),
        ({"tensor": 2}, {"w": ("D",)}, BATCH, "layout.tensor=2 .* no weight .* N, K"),
        (
            {"pipeline": Pipeline(2)},
            {"w": ("D",)},
            BATCH,
            "layout.pipeline=2 is for stages .* L",
        ),
        ({"fsdp": 2}, {"w": (None,)}, BATCH, "layout.fsdp=2 .* an axis D; make it 1"),
        (
            {"sequence": 2},
            DENSE,
            {"label": jax.ShapeDtypeStruct((8,), "int32")},
            r"layout.sequence=2 cuts .*\(label\) has none.*layout.data 2 times",
        ),
    ],
)
def test_an_axis_that_nothing_uses_is_named(layout, axes, batch, says):
    with pytest.raises(ValueError, match=says):
        check_axes(axes, batch, make_mesh(LayoutConfig(**layout)))


def test_axes_that_something_uses_pass():
    layout = LayoutConfig(data=1, fsdp=2, sequence=2, tensor=2)
    check_axes(DENSE, BATCH, make_mesh(layout))
    moe = {"experts": ("E", "D", "F")}
    check_axes(moe, BATCH, make_mesh(LayoutConfig(expert=2)))
