"""Zig-zag order of tokens over a mesh axis, which balances causal attention.

Of 2n chunks, device i of n holds i and 2n - 1 - i: a chunk with few keys before it
goes with one that has many (cf. striped attention, arXiv:2311.09431).
"""

import jax
import jax.numpy as jnp
import numpy as np


def holder(chunk: int, n: int) -> int:
    """The device that holds a chunk."""
    return chunk if chunk < n else 2 * n - 1 - chunk


def order(T: int, n: int) -> np.ndarray:
    """Indices of the tokens of device 0, then of device 1…: [T]."""
    chunks = np.arange(T).reshape(2 * n, -1)
    return np.concatenate([chunks[[i, 2 * n - 1 - i]].reshape(-1) for i in range(n)])


def fold(x: jax.Array, axis: str, n: int) -> jax.Array:
    """This device's [B, T / n, ...] of consecutive tokens -> its two chunks.

    i and 2n - 1 - i differ in parity, so even and odd chunks are a permutation each.
    """
    even, odd = (
        jax.lax.ppermute(half, axis, [(d, holder(2 * d + parity, n)) for d in range(n)])
        for parity, half in enumerate(jnp.split(x, 2, axis=1))
    )
    return _by_parity(even, odd, axis)


def unfold(x: jax.Array, axis: str, n: int) -> jax.Array:
    """The inverse of `fold`."""
    low, high = jnp.split(x, 2, axis=1)
    halves = jnp.split(_by_parity(low, high, axis), 2, axis=1)
    back = [
        jax.lax.ppermute(half, axis, [(holder(2 * d + parity, n), d) for d in range(n)])
        for parity, half in enumerate(halves)
    ]
    return jnp.concatenate(back, axis=1)


def _by_parity(first: jax.Array, second: jax.Array, axis: str) -> jax.Array:
    """Both concatenated, `second` first on devices of odd number."""
    odd = jax.lax.axis_index(axis) % 2 == 1
    return jnp.where(
        odd,
        jnp.concatenate([second, first], axis=1),
        jnp.concatenate([first, second], axis=1),
    )
