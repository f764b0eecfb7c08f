"""One server for each file."""

import pytest

from tests.serve import toy


@pytest.fixture(scope="module")
def server():
    with toy.running() as server:
        yield server
