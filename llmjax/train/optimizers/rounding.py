"""Rounding at random, which keeps in bfloat16 what small updates add up to."""

from typing import Any

import jax
import jax.numpy as jnp


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """Float32 `x` as bfloat16: one of its two neighbours, in the mean `x` itself.

    The upper one with the probability of x's distance from the lower (Gupta et al.
    2015, arXiv:1502.02551). What bfloat16 has stays; so do infinities and NaN.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = (bits + noise) & jnp.uint32(0xFFFF0000)  # bfloat16 is float32's upper half
    rounded = jax.lax.bitcast_convert_type(cut, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def round_tree(tree: Any, key: jax.Array) -> Any:
    """`stochastic_round` of every leaf, each with noise of its own."""
    leaves, structure = jax.tree.flatten(tree)
    rounded = [
        stochastic_round(leaf, jax.random.fold_in(key, i))
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, rounded)
