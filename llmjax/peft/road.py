"""RoAd: pairs of results, turned and scaled."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import RoAd
from llmjax.peft.matrix import MatrixMethod, Size, Spec, check_divides
from llmjax.peft.method import Weights

ENTRIES = {"road_1": 1, "road_2": 2, "road_4": 4}  # of a pair that have a weight


@dataclasses.dataclass(frozen=True)
class Turned(MatrixMethod):
    """y ⊙ α cos θ + y' ⊙ α sin θ, y' being pairs (-y₂, y₁) for (y₁, y₂).

    The bias is turned too. Angles begin at 0 and factors at 1.
    """

    config: RoAd

    name: ClassVar[str] = "road"
    neutral: ClassVar[Mapping[str, float]] = {"alpha": 1.0}

    def specs(self, size: Size) -> dict[str, Spec]:
        group = self.config.group_size
        check_divides("group_size", group, size.outputs, "outputs", size.path)
        count = size.outputs * ENTRIES[self.config.variant] // 2
        return {
            "theta": Spec(nn.initializers.zeros, (count,)),
            "alpha": Spec(nn.initializers.ones, (count,)),
        }

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        return self._turned(y, w)

    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        return self._turned(kernel, w)

    def vector(self, bias: jax.Array, w: Weights) -> jax.Array:
        return self._turned(bias, w)

    def _turned(self, y: jax.Array, w: Weights) -> jax.Array:
        group, variant = self.config.group_size, self.config.variant
        own, other = columns(w["theta"], w["alpha"], group, variant)
        pairs = y.reshape(*y.shape[:-1], -1, 2, group // 2)
        swapped = jnp.stack([-pairs[..., 1, :], pairs[..., 0, :]], -2)
        own, other = own.astype(y.dtype), other.astype(y.dtype)
        return y * own + swapped.reshape(y.shape) * other


def columns(
    theta: jax.Array, alpha: jax.Array, group: int, variant: str
) -> tuple[jax.Array, jax.Array]:
    """The factors of each feature and of its partner, [O] both."""
    if variant == "road_4":  # of each group first the features' own ones
        pairs = (v.reshape(-1, 2, group) for v in (theta, alpha))
        angles, scales = pairs
        own = scales[:, 0] * jnp.cos(angles[:, 0])
        other = scales[:, 1] * jnp.sin(angles[:, 1])
        return own.reshape(-1), other.reshape(-1)
    if variant == "road_1":  # of a pair both features have the same
        halves = (v.reshape(-1, 1, group // 2) for v in (theta, alpha))
        theta, alpha = (jnp.tile(v, (1, 2, 1)).reshape(-1) for v in halves)
    return alpha * jnp.cos(theta), alpha * jnp.sin(theta)
