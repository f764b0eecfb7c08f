"""Losses of vectors and their gradients against sentence-transformers' own.

The golden file is written by `python -m tests.parity.embeddings --write`.
"""

import numpy as np
import pytest

from tests.parity import given_vectors

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.parametrize("name", given_vectors.CASES)
def test_equals_sentence_transformers(name):
    golden = given_vectors.golden()
    assert golden.keys() == given_vectors.CASES.keys()
    ours = given_vectors.ours(given_vectors.CASES[name])
    assert given_vectors.difference(ours, golden[name]) <= 1e-5
    assert all(np.abs(g).max() > 1e-3 for g in golden[name][1].values())
