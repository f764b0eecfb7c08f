"""Rotary positions: pairs of a head's sizes turned by position."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llmjax.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    Rotary,
    YaRN,
)
from llmjax.models.positions.scheme import Scheme


class RotaryScheme(Scheme):
    """Su et al. 2021, arXiv:2104.09864."""

    def rotate(
        self,
        x_BTNH: jax.Array,
        positions_BT: jax.Array,
        lengths_BT: jax.Array | None = None,
    ) -> jax.Array:
        size = self.cfg.rotary_dim(self.config)
        return rotary(x_BTNH, positions_BT, self.config, size, lengths_BT)


def rotary(
    x_BTNH: Float[Array, "B T N H"],
    positions_BT: Int[Array, "#B T"],
    config: Rotary,
    size: int,
    lengths_BT: Int[Array, "#B T"] | None = None,
) -> Float[Array, "B T N H"]:
    """Rotates pairs of the first `size` of each head by position (Su et al. 2021).

    The pair (x[i], x[i + size/2]), or with `interleaved` (x[2i], x[2i + 1]), turns by
    position * theta**(-2i/size), as `scaling` changes it; in float32. `lengths_BT` as
    `lengths.text_lengths` gives it, for a scaling that follows it.
    """
    rate_BTH, factor = rotary_rates(config, size, lengths_BT)
    if config.interleaved:
        rate_BTH = jnp.repeat(rate_BTH, 2, axis=-1)
    else:
        rate_BTH = jnp.concatenate([rate_BTH, rate_BTH], axis=-1)
    positions_BT11 = positions_BT[:, :, None, None].astype(jnp.float32)
    angle = positions_BT11 * rate_BTH[:, :, None]
    sin, cos = jnp.sin(angle) * factor, jnp.cos(angle) * factor
    x, rest = x_BTNH[..., :size], x_BTNH[..., size:]
    turned = x.astype(jnp.float32) * cos + _quarter_turn(x, config.interleaved) * sin
    turned = turned.astype(x_BTNH.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


def _quarter_turn(x: jax.Array, interleaved: bool) -> jax.Array:
    """Float32 (-b, a) of every pair (a, b), by a matrix of 0, 1 and -1: exact.

    On a TPU the matrix unit does this for nothing; cut and joined halves of its 128
    lanes cost more than the projection beside them.
    """
    size = x.shape[-1]
    first = np.arange(0, size, 2) if interleaved else np.arange(size // 2)
    second = first + (1 if interleaved else size // 2)
    turn = np.zeros((size, size), np.float32)
    turn[second, first], turn[first, second] = -1, 1
    return jnp.einsum(
        "...H,HI->...I",
        x,
        jnp.asarray(turn, x.dtype),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
    )


def rotary_rates(
    config: Rotary, size: int, lengths_BT: jax.Array | None = None
) -> tuple[jax.Array, float]:
    """Radians per position of each pair, and a factor on sin and cos.

    Args:
      config: theta and its scaling.
      size: of a head's part that turns.
      lengths_BT: of the text that each token is part of; read where the scaling
        follows it.

    Returns:
      [1, 1, size / 2], or [B, T, size / 2] where the scaling follows the length.
    """
    scaling = config.scaling
    exponent_H = np.arange(0, size, 2, dtype=np.float32) / size
    rate_H = 1.0 / config.theta**exponent_H
    factor = 1.0
    if isinstance(scaling, DynamicScaling):
        assert lengths_BT is not None
        original = scaling.original_length
        length_BT1 = jnp.maximum(lengths_BT, original)[..., None]
        grown_BT1 = scaling.factor * length_BT1 / original - (scaling.factor - 1)
        theta_BT1 = config.theta * grown_BT1 ** (size / (size - 2))
        return 1.0 / jnp.power(theta_BT1, exponent_H), factor
    if isinstance(scaling, LongRope):
        assert lengths_BT is not None
        long_H = np.array(scaling.long, np.float32)
        short_H = np.array(scaling.short, np.float32)
        beyond_BT1 = lengths_BT[..., None] > scaling.original_length
        divisor_BTH = jnp.where(beyond_BT1, long_H, short_H)
        return jnp.asarray(rate_H) / divisor_BTH, scaling.attention_factor
    if isinstance(scaling, LinearScaling):
        rate_H = rate_H / scaling.factor
    elif isinstance(scaling, Llama3Scaling):
        rate_H = _llama3(rate_H, scaling)
    elif isinstance(scaling, YaRN):
        rate_H, factor = _yarn(rate_H, config.theta, size, scaling), _mscale(scaling)
    return jnp.asarray(rate_H)[None, None], factor


def _llama3(rate_H: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """Slow pairs divided by `factor`, fast ones kept, those between blended."""
    turns_H = scaling.original_length * rate_H / (2 * math.pi)
    low, high = scaling.low_frequency, scaling.high_frequency
    keep_H = np.clip((turns_H - low) / (high - low), 0, 1)
    return (keep_H + (1 - keep_H) / scaling.factor) * rate_H


def _yarn(rate_H: np.ndarray, theta: float, size: int, scaling: YaRN) -> np.ndarray:
    """NTK by parts (Peng et al. 2023, 3.2): a ramp between two pairs."""

    def pair_that_turns(times: float) -> float:
        wavelength = scaling.original_length / (times * 2 * math.pi)
        return size * math.log(wavelength) / (2 * math.log(theta))

    low = pair_that_turns(scaling.beta_fast)
    high = pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high = high + 0.001 if low == high else high
    keep_H = 1 - np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
    return (keep_H + (1 - keep_H) / scaling.factor) * rate_H


def _mscale(scaling: YaRN) -> float:
    """Factor on sin and cos, so that attention over longer contexts stays as sharp."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def grown(weight: float) -> float:
        if scaling.factor <= 1:
            return 1.0
        return 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)
