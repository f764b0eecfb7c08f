"""GPUs agree with their published numbers; clusters of them are parsed by name."""

import re

import pytest

from llmjax.plan.compiler import platforms
from llmjax.plan.cost import gpus
from llmjax.train.metrics.flops import published_peak

VARIABLES = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
# Dense bfloat16 FLOPs per cycle and core: four matrix units of 512, of 1024 on Hopper
# and 2048 on Blackwell; on Ada 256, of which GeForce has half.
MATRIX_UNITS = {
    "a100-40": 2048,
    "a100-80": 2048,
    "h100": 4096,
    "h200": 4096,
    "b200": 8192,
    "l4": 1024,
    "rtx4090": 512,
}


@pytest.mark.parametrize("gpu", gpus.GPUS.values(), ids=gpus.GPUS)
def test_peaks_follow_from_cores_and_clocks(gpu):
    """With matrix units at work the largest models' clock is 1.83 and 1.86 GHz."""
    clock = gpu.bf16_flops / gpu.cores / MATRIX_UNITS[gpu.name]
    assert 0.92 < clock / gpu.clock < 1.001
    fp32 = 2 * gpu.cores * gpu.fp32_units * gpu.clock
    assert gpu.fp32_flops == pytest.approx(fp32, rel=0.01)


@pytest.mark.parametrize("gpu", gpus.GPUS.values(), ids=gpus.GPUS)
def test_numbers_are_plausible_together(gpu):
    """A mistyped unit is off by 8 or by 1000."""
    assert 0.9 < gpu.memory_bytes / gpu.hbm_bytes < 1.07
    assert 150 < gpu.bf16_flops / gpu.hbm_bandwidth < 410  # FLOPs per byte of memory
    assert gpu.network_bandwidth < gpu.local_bandwidth < gpu.hbm_bandwidth
    assert gpu.nvlink_bandwidth == 0 or gpu.nvlink_bandwidth > gpu.host_bandwidth
    assert gpu.block_bytes == gpu.shared_bytes - 1024


def test_target_config_is_whole():
    text = gpus.GPUS["h100"].target_config()
    assert text.count("{") == text.count("}")
    assert re.search(r"core_count: 132\b", text)
    assert re.search(r"major: 9 minor: 0\b", text)


@pytest.mark.parametrize(
    "name, chips, hosts, canonical",
    [
        ("h100:8", 8, 1, "h100:8"),
        ("h100:8x16", 128, 16, "h100:8x16"),
        ("a100-40:4x1", 4, 1, "a100-40:4"),
    ],
)
def test_topology(name, chips, hosts, canonical):
    topology = gpus.parse(name)
    assert (topology.chips, topology.devices) == (chips, chips)
    assert (topology.hosts, topology.name) == (hosts, canonical)


def test_what_crosses_hosts_takes_the_network():
    """Of 16 hosts, an axis of 16 over them has one adapter; one of 128 all eight."""
    topology = gpus.parse("h100:8x16")
    gpu = topology.chip
    assert topology.bandwidths({"data": 16, "fsdp": 4, "tensor": 2}) == {
        "data": gpu.network_bandwidth,
        "fsdp": gpu.nvlink_bandwidth,
        "tensor": gpu.nvlink_bandwidth,
    }
    whole = topology.bandwidths({"data": 1, "fsdp": 128, "tensor": 1})
    assert whole["fsdp"] == 8 * gpu.network_bandwidth
    strided = topology.bandwidths({"fsdp": 32, "tensor": 4})
    assert strided["fsdp"] == 2 * gpu.network_bandwidth
    assert gpus.parse("l4:8").bandwidths({"fsdp": 8})["fsdp"] == 32e9


@pytest.mark.parametrize("name", ["h100", "h100:0", "h100:8x0", "v100:8", "h100:2x2x2"])
def test_errors_name_the_gpus(name):
    with pytest.raises(ValueError, match="a100-40, a100-80, h100, h200, b200, l4"):
        gpus.parse(name)


def test_more_gpus_than_a_host_has():
    with pytest.raises(ValueError, match="h100:8xHOSTS"):
        gpus.parse("h100:16")


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", None),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("cpu", None),
    ],
)
def test_a_models_peak_is_not_anothers(kind, peak):
    assert published_peak(kind) == peak


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("value", ["most", "0", "-1", "nan"])
def test_a_share_of_the_memory_that_is_none(name, value, monkeypatch):
    for each in VARIABLES:
        monkeypatch.delenv(each, raising=False)
    h100 = gpus.parse("h100:8")
    monkeypatch.setenv(name, "0.5")
    assert h100.chip.usable_hbm_bytes == h100.chip.memory_bytes // 2
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name}='{value}'; it is the share"):
        platforms.require(h100)
