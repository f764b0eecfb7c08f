"""One toy run, compiled once and never interrupted, that the other tests look at."""

import types

import jax
import pytest

from llmjax.train import loop
from tests.train import toy


@pytest.fixture(scope="package", autouse=True)
def _quick():
    """Compiles faster; these programs run for microseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="package")
def noisy():
    """That run's config."""
    return toy.NOISY


@pytest.fixture(scope="package")
def program(noisy):
    return toy.program(noisy)


@pytest.fixture(scope="package")
def train(noisy):
    return toy.batches(noisy)


@pytest.fixture(scope="package")
def held_out(noisy):
    return toy.batches(noisy, documents=9, seed=1)


@pytest.fixture(scope="package")
def whole(program, train, held_out, tmp_path_factory):
    """What it left: workdir, state (on the host) and result."""
    workdir = tmp_path_factory.mktemp("whole")
    state, result = loop.fit(program, train, held_out, workdir, progress=False)
    return types.SimpleNamespace(
        workdir=workdir, state=jax.device_get(state), result=result
    )
