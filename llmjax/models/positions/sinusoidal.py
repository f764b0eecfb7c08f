"""Sinusoidal positions: fixed vectors added to the embeddings."""

from typing import Any

import jax
import jax.numpy as jnp

from llmjax.models.positions.scheme import Scheme


class SinusoidalScheme(Scheme):
    """Vaswani et al. 2017, arXiv:1706.03762, 3.5."""

    def embed(
        self,
        x_BTM: jax.Array,
        positions_BT: jax.Array,
        table: Any,
        dtype: jax.typing.DTypeLike,
    ) -> jax.Array:
        config, size = self.config, x_BTM.shape[-1]
        positions_BT = positions_BT + config.offset
        return x_BTM + sinusoidal(
            positions_BT, size, config.max_wavelength, config.order
        )


def sinusoidal(
    positions_BT: jax.Array, size: int, max_wavelength: float, order: str
) -> jax.Array:
    """[..., size] sines and cosines (Vaswani et al. 2017, 3.5).

    "interleaved": sines in even and cosines in odd places; "halves": all sines first.
    """
    rate = max_wavelength ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = positions_BT[..., None].astype(jnp.float32) * rate
    if order == "halves":
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[..., :size]
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return pairs.reshape(*positions_BT.shape, -1)[..., :size]
