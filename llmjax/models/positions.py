"""Position encodings as pure functions of integer positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotary(
    x_BTNH: Float[Array, "B T N H"],
    positions_BT: Int[Array, "#B T"],
    theta: float,
) -> Float[Array, "B T N H"]:
    """Rotates the halves of each head by position (Su et al. 2021; half-split order).

    The pair (x[i], x[i + H/2]) turns by position * theta**(-2i/H), in float32.
    """
    half = x_BTNH.shape[-1] // 2
    rate_H = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * rate_H
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def sinusoidal(positions_BT: jax.Array, size: int, max_wavelength: float) -> jax.Array:
    """[B, T, size] sines in even and cosines in odd places (Vaswani et al. 2017)."""
    rate = max_wavelength ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = positions_BT[..., None].astype(jnp.float32) * rate
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return pairs.reshape(*positions_BT.shape, -1)[..., :size]
