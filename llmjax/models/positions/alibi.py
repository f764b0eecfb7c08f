"""ALiBi: a penalty for each head that grows with distance."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.models.positions.scheme import Bias, Scheme, Scores


class AlibiScheme(Scheme):
    """Press et al. 2022, arXiv:2108.12409."""

    def scores(self, scores: Scores) -> tuple[jax.Array, Bias | None]:
        return scores.q_BTNH, functools.partial(alibi, N=self.cfg.num_heads)


def alibi(q_BT: jax.Array, k_BS: jax.Array, N: int) -> jax.Array:
    """-slope * distance, symmetric where keys lie ahead."""
    distance_BTS = jnp.abs(q_BT[:, :, None] - k_BS[:, None, :]).astype(jnp.float32)
    return -jnp.asarray(alibi_slopes(N))[:, None, None] * distance_BTS[:, None]


def alibi_slopes(N: int) -> np.ndarray:
    """Float32 [N]: 2^(-8/n), 2^(-16/n)… for a power of two n; the rest, if N is none,
    every other slope of the next power of two (Press et al. 2022, their code)."""
    power = 2 ** math.floor(math.log2(N))

    def series(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    extra = series(2 * power)[0::2][: N - power]
    return np.array(series(power) + extra, np.float32)
