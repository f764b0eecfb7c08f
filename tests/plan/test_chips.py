"""Chips agree with their published numbers; topologies are parsed by name."""

import pytest

from llmjax.plan.cost import chips


def test_clocks_follow_from_peaks_and_matrix_units():
    """Jouppi et al. 2023 publish 1050 MHz for v4; the others come out round."""
    clocks = {name: round(chip.hertz / 1e9, 2) for name, chip in chips.CHIPS.items()}
    assert clocks == {"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75, "tpu7x": 2.2}


@pytest.mark.parametrize("chip", chips.CHIPS.values(), ids=chips.CHIPS)
def test_numbers_are_plausible_together(chip):
    """A mistyped unit is off by 8 or by 1000."""
    assert 0.9 < chip.usable_hbm_bytes / chip.hbm_bytes <= 1
    assert 120 < chip.bf16_flops / chip.hbm_bandwidth < 600  # FLOPs per byte of HBM
    assert 8 < chip.hbm_bandwidth / chip.link_bandwidth < 80
    assert chip.dcn_bandwidth < chip.host_bandwidth < chip.link_bandwidth
    assert chip.cores * chip.devices == {"v4": 2, "v5p": 2, "tpu7x": 2}.get(
        chip.name, 1
    )


def test_topology():
    two = chips.parse("v5e:16x16", 2)
    assert (two.chips, two.devices, two.name) == (512, 512, "v5e:16x16")
    assert two.options == {"topology_name": "v5e:16x16", "num_slices": 2}
    assert chips.parse("tpu7x:4x4x4").devices == 128
    v4 = chips.parse("v4:2x2x1")
    assert v4.options == {"topology_name": "v4:2x2x1", "chip_config_name": "megacore"}


@pytest.mark.parametrize(
    "name, wraps",
    [
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),  # no whole cube, no optical switch
        ("v5e:8x16", (False, True)),
        ("v6e:16x16", (True, True)),
    ],
)
def test_rings(name, wraps):
    assert chips.parse(name).wraps == wraps


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5x:4x4", "a chip of v4, v5e, v5p, v6e, tpu7x"),
        ("v5p", "CHIP:SHAPE, as v5e:16x16 or v5p:4x4x4"),
        ("v5p:4x4", "give 3 sizes, as v5p:4x4x4"),
        ("v6e:4x4x4", "give 2 sizes, as v6e:16x16"),
        ("v5e:16x32", "--topology=v5e:16x16 --num_slices=N"),
        ("v5p:3x4x4", "1 or even, not 3"),
        ("v5e:0x4", "give 2 sizes"),
    ],
)
def test_errors_say_what_is_accepted(name, message):
    with pytest.raises(ValueError, match=name.replace("(", r"\(")) as error:
        chips.parse(name)
    assert message in str(error.value)


def test_zero_slices_are_an_error():
    with pytest.raises(ValueError, match="num_slices is 0; it must be at least 1"):
        chips.parse("v5e:4x4", 0)
