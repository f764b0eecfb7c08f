"""Everything in 64 bits, so that rounding turns no choice of a router."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar
from unittest import mock

import jax
import jax.numpy as jnp

from llmjax.config import Float32, RunConfig


@dataclasses.dataclass(frozen=True)
class Float64(Float32):
    """Activations and matmuls of 64 bits; weights as `float64` makes them."""

    kind: ClassVar[str] = "float64"
    dtype: ClassVar[str] = "float64"


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """What the code asks to be at least `jnp.float32` is float64, and weights too."""
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield


def widened(config: RunConfig) -> RunConfig:
    """With the precision float64, which no config may ask for."""
    layout = dataclasses.replace(config.layout, precision=Float64())
    return dataclasses.replace(config, layout=layout)
