"""SHiRA: some of the matrix' own entries, at random places."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import SHiRA
from llmjax.peft.matrix import MatrixMethod, Size, Spec
from llmjax.peft.method import Weights


@dataclasses.dataclass(frozen=True)
class Sparse(MatrixMethod):
    """x W + x S: S has `values` at `places`, which stay, and is 0 elsewhere.

    A place counts the entries of [I, O] row by row.
    """

    config: SHiRA

    name: ClassVar[str] = "shira"
    fixed: ClassVar[tuple[str, ...]] = ("places",)

    def specs(self, size: Size) -> dict[str, Spec]:
        inputs, outputs, path = size
        count, entries = self.config.rank * (inputs + outputs), inputs * outputs
        if count > entries:
            raise ValueError(
                f"peft.rank={self.config.rank} trains {count} entries of {path}, which "
                f"has {entries}; set it to {entries // (inputs + outputs)} at most, or "
                "leave the matrix out by peft.exclude"
            )

        def places(key: Any, shape: tuple[int, ...]) -> jax.Array:
            *over, _ = shape  # experts have places of their own
            keys = jax.random.split(key, tuple(over)) if over else key

            def draw(key: Any) -> jax.Array:
                return jnp.sort(
                    jax.random.choice(key, entries, (count,), replace=False)
                )

            drawn: Any = draw
            for _ in over:
                drawn = jax.vmap(drawn)
            return drawn(keys).astype(jnp.int32)

        return {
            "values": Spec(nn.initializers.zeros, (count,)),
            "places": Spec(places, (count,)),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        return y + x @ sparse(jnp.zeros_like(kernel), w)

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return sparse(kernel, w)


def sparse(matrix: jax.Array, w: Weights) -> jax.Array:
    """A matrix plus `values` at `places`."""
    values = w["values"].astype(matrix.dtype)
    flat = (
        matrix.reshape(-1)
        .at[w["places"]]
        .add(values, indices_are_sorted=True, unique_indices=True)
    )
    return flat.reshape(matrix.shape)
