"""From logits to a token: pure transforms, and the one value that composes them.

Every transform takes float32 logits [B, V] and gives the same shape, with -inf for
tokens that it rules out; at least the likeliest token always stays. Where logits tie,
the lower token id counts as the likelier, as in `argmax`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

MIN_TEMPERATURE = 1e-6  # below it float32 logits divided by it may overflow


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn: temperature, then top-k, top-p and min-p, in this order.

    Each of the last three renormalises what the ones before it left; None leaves it
    out. The defaults draw from the model's own distribution.

    Attributes:
      temperature: divides the logits; 0 is greedy, and then the others say nothing.
      top_k: keeps this many of the likeliest tokens.
      top_p: keeps the fewest likeliest tokens that hold this much probability.
      min_p: keeps tokens at least this fraction as likely as the likeliest.

    Raises:
      ValueError: a value out of its range; it names the field and what is accepted.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self):
        t, k, p, m = self.temperature, self.top_k, self.top_p, self.min_p
        if not (t == 0 or MIN_TEMPERATURE <= t < math.inf):
            raise ValueError(
                f"temperature is {t}; it must be 0 (greedy) or a finite number of at "
                f"least {MIN_TEMPERATURE}"
            )
        if k is not None and k < 1:
            raise ValueError(f"top_k is {k}; it must be at least 1, or None for all")
        if p is not None and not 0 < p <= 1:
            raise ValueError(f"top_p is {p}; it must be in (0, 1], or None for all")
        if m is not None and not 0 <= m <= 1:
            raise ValueError(f"min_p is {m}; it must be in [0, 1], or None for all")


DEFAULT = Sampling()


def sample(logits_BV: jax.Array, keys_B: jax.Array, sampling: Sampling) -> jax.Array:
    """One token per row, int32 [B]; row b's draw depends on its own key alone."""
    if sampling.temperature == 0:
        return greedy(logits_BV)
    logits_BV = transform(logits_BV, sampling)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def transform(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits that `sample` draws from, for a temperature above 0."""
    logits_BV = apply_temperature(logits_BV, sampling.temperature)
    if sampling.top_k is not None:
        logits_BV = apply_top_k(logits_BV, sampling.top_k)
    if sampling.top_p is not None:
        logits_BV = apply_top_p(logits_BV, sampling.top_p)
    if sampling.min_p is not None:
        logits_BV = apply_min_p(logits_BV, sampling.min_p)
    return logits_BV


def greedy(logits_BV: jax.Array) -> jax.Array:
    """The likeliest token of each row, int32 [B]."""
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def apply_temperature(logits_BV: jax.Array, temperature: float) -> jax.Array:
    """Logits / temperature, less each row's maximum so that nothing overflows."""
    return (logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / temperature


def apply_top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """Keeps the k likeliest tokens of each row (Fan et al. 2018, arXiv:1805.04833)."""
    k = min(k, logits_BV.shape[-1])
    kth_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    return _keep_largest(logits_BV, jnp.full_like(kth_B1, k, jnp.int32), kth_B1)


def apply_top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Keeps the nucleus: the fewest likeliest tokens whose probability is at least p.

    Holtzman et al. 2020, arXiv:1904.09751, eq. 2.
    """
    if p >= 1:  # not left to the rounding of the sum
        return logits_BV
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    p_BV = jax.nn.softmax(sorted_BV, axis=-1)
    likelier_BV = jnp.cumsum(p_BV, axis=-1) - p_BV  # probability before each token
    count_B1 = jnp.maximum(jnp.sum(likelier_BV < p, axis=-1, keepdims=True), 1)
    least_B1 = jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1)
    return _keep_largest(logits_BV, count_B1, least_B1)


def apply_min_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Keeps tokens at least p times as likely as the row's likeliest.

    Nguyen et al. 2024, arXiv:2407.01082, 3.1.
    """
    if p <= 0:
        return logits_BV
    least_B1 = jnp.max(logits_BV, axis=-1, keepdims=True) + math.log(p)
    return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def _keep_largest(
    logits_BV: jax.Array, count_B1: jax.Array, least_B1: jax.Array
) -> jax.Array:
    """Keeps `count` logits of each row, of which `least` is the smallest.

    Of several equal to it the first ones stay; a comparison and a running count do it,
    with no scatter back from sorted order.
    """
    above_BV, equal_BV = logits_BV > least_B1, logits_BV == least_B1
    room_B1 = count_B1 - jnp.sum(above_BV, axis=-1, keepdims=True)
    first_BV = equal_BV & (jnp.cumsum(equal_BV, axis=-1) <= room_B1)
    return jnp.where(above_BV | first_BV, logits_BV, -jnp.inf)
