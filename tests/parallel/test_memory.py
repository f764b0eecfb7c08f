"""A run's jax takes the share of a GPU that its plan counts on."""

import os

import pytest

from llmjax.parallel import memory
from llmjax.plan.cost.gpus import GPUS


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "")


def test_a_run_takes_what_its_plan_counts_on():
    planned = GPUS["h100"].usable_hbm_bytes
    memory.reserve()
    taken = float(os.environ["XLA_CLIENT_MEM_FRACTION"])
    assert planned == int(taken * GPUS["h100"].memory_bytes)


@pytest.mark.parametrize(
    "name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"]
)
def test_an_own_share_counts_for_both(name, monkeypatch):
    monkeypatch.setenv(name, "0.5")
    assert memory.share() == 0.5
    memory.reserve()
    assert [v for v in map(os.environ.get, memory._VARIABLES) if v] == ["0.5"]
