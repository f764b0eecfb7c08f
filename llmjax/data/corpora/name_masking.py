"""Hides which package a text is about, so that a classifier has to read it."""

import re

MASK = "PKG"

# Hidden with the word that they occur in (jaxprs, SciPyError).
_DISTINCTIVE = (
    r"tensorflow[ _\-]?datasets",
    r"hugging[ _\-]?face(?:[ _\-]?hub)?",
    r"scikit[ _\-]?learn",
    r"scikits?",
    "sklearn",
    "matplotlib",
    "pyplot",
    "numpy",
    "scipy",
    "optax",
    "orbax",
    "flax",
    "tfds",
    "absl",
    "abseil",
    "etils",
    "jaxlib",
    "jax",
    "jnp",
)
# Import aliases and names that are words: hidden between non-alphanumerics, so that
# `np.sum`, `np_array` and `import numpy as np` are and `input` is not.
_WORDS = (
    "pygrain",
    "grain",
    "linen",
    "nnx",
    "nn",
    "lax",
    "ocp",
    "np",
    "npt",
    "plt",
    "mpl",
    "pylab",
    "sp",
    "hf",
    "cpython",
    "python",
)
_PATTERN = re.compile(
    rf"(?<![^\W_])[^\W_]*(?:{'|'.join(_DISTINCTIVE)})[^\W_]*"
    rf"|(?<![^\W_])(?:{'|'.join(_WORDS)})(?![^\W_])",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """`text` with package names and their import aliases replaced by `MASK`."""
    return _PATTERN.sub(MASK, text)
