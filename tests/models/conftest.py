"""Programs of these tests are compiled often and run for microseconds."""

import pytest


@pytest.fixture(autouse=True)
def _quick(quick_compile):
    yield
