"""Everything in 64 bits, so that rounding turns no choice of a router."""

import contextlib
import dataclasses
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from llmjax.config import RunConfig


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """What the code asks to be at least `jnp.float32` is float64, and weights too."""
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield


def widened(config: RunConfig) -> RunConfig:
    """With the precision float64, which no config may ask for."""
    layout = dataclasses.replace(config.layout)
    object.__setattr__(layout, "precision", "float64")  # past the check of its type
    return dataclasses.replace(config, layout=layout)
