"""Compiles faster; these programs run for microseconds."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
