"""Masked text names no package."""

import pytest

from llmjax.data.corpora.name_masking import MASK, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("import numpy as np", f"import {MASK} as {MASK}"),
        ("JNP.zeros and np.sum(x)", f"{MASK}.zeros and {MASK}.sum(x)"),
        ("flax.linen.nn.Dense", f"{MASK}.{MASK}.{MASK}.Dense"),
        ("scikit-learn, Hugging Face Hub", f"{MASK}, {MASK}"),
        ("jaxprs raise SciPyError", f"{MASK} raise {MASK}"),
        ("np_array, jax_enable_x64", f"{MASK}_array, {MASK}_enable_x64"),
        ("input, sparse, planned, ocpx", "input, sparse, planned, ocpx"),
    ],
)
def test_names_and_aliases_vanish_and_words_stay(text: str, masked: str) -> None:
    assert mask(text) == masked
