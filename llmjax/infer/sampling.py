"""From logits to a token: pure transforms, and the one value that composes them.

Every transform takes float32 logits [B, V] and gives the same shape, with -inf for
tokens that it rules out; at least the likeliest token always stays. Where logits tie,
the lower token id counts as the likelier, as in `argmax`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MIN_TEMPERATURE = 1e-6  # below it float32 logits divided by it may overflow
_ALL = np.iinfo(np.int32).max  # a top_k that keeps every token


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


def chosen(stored: Mapping[str, Any], given: Mapping[str, Any]) -> Sampling:
    """How tokens are drawn: by the fields given, else by those of a model's files.

    Where the files are greedy and a field is given, it asks for draws: theirs don't
    count.

    Raises:
      ValueError: as `Sampling`.
    """
    by_hand = {key: value for key, value in given.items() if value is not None}
    if by_hand and stored.get("temperature") == 0:
        stored = {}
    fields: dict[str, Any] = {**stored, **by_hand}
    return Sampling(**fields)


@flax.struct.dataclass
class RowSampling:
    """`Sampling` of each row of a batch, as arrays: no value compiles anew.

    Attributes:
      temperature_B, top_p_B, min_p_B: float32.
      top_k_B: int32; at least the vocabulary's size keeps all.
    """

    temperature_B: Any
    top_k_B: Any
    top_p_B: Any
    min_p_B: Any


def rows_of(samplings: Sequence[Sampling]) -> RowSampling:
    """The samplings of a batch, one a row, as numpy arrays."""

    def column(name: str, none: Any, dtype: Any) -> np.ndarray:
        values = [getattr(sampling, name) for sampling in samplings]
        # top_k may be any int, and all above int32 keep all
        values = [none if v is None else min(v, _ALL) for v in values]
        return np.array(values, dtype)

    return RowSampling(
        column("temperature", 1.0, np.float32),
        column("top_k", _ALL, np.int32),
        column("top_p", 1.0, np.float32),
        column("min_p", 0.0, np.float32),
    )


def sample(logits_BV: jax.Array, keys_B: jax.Array, sampling: RowSampling) -> jax.Array:
    """One token per row, int32 [B]; row b's draw depends on its own key alone.

    Nothing is sorted where no row asks for it, and nothing drawn where all are greedy.
    """
    is_greedy_B = sampling.temperature_B == 0

    def draw() -> jax.Array:
        draws_B = jax.vmap(jax.random.categorical)(
            keys_B, transform(logits_BV, sampling)
        )
        return jnp.where(is_greedy_B, greedy(logits_BV), draws_B.astype(jnp.int32))

    return lax.cond(jnp.all(is_greedy_B), lambda: greedy(logits_BV), draw)


def transform(logits_BV: jax.Array, sampling: RowSampling) -> jax.Array:
    """The logits that `sample` draws from, for temperatures above 0."""
    V = logits_BV.shape[-1]
    temperature_B = sampling.temperature_B
    temperature_B = jnp.where(temperature_B == 0, 1, temperature_B)
    logits_BV = apply_temperature(logits_BV, temperature_B[:, None])
    k_B1, p_B1 = sampling.top_k_B[:, None], sampling.top_p_B[:, None]
    cuts = (sampling.top_k_B < V) | (sampling.top_p_B < 1)
    logits_BV = lax.cond(
        jnp.any(cuts),
        lambda: apply_top_p(apply_top_k(logits_BV, k_B1), p_B1),
        lambda: logits_BV,
    )
    return apply_min_p(logits_BV, sampling.min_p_B[:, None])


def greedy(logits_BV: jax.Array) -> jax.Array:
    """The likeliest token of each row, int32 [B]."""
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def apply_temperature(logits_BV: jax.Array, temperature: Any) -> jax.Array:
    """Logits / temperature, less each row's maximum so that nothing overflows."""
    return (logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / temperature


def apply_top_k(logits_BV: jax.Array, k: Any) -> jax.Array:
    """Keeps the k likeliest tokens of each row (Fan et al. 2018, arXiv:1805.04833).

    k is one number or one a row, [B, 1].
    """
    B, V = logits_BV.shape
    k_B1 = jnp.broadcast_to(jnp.minimum(k, V), (B, 1))
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    kth_B1 = jnp.take_along_axis(sorted_BV, k_B1 - 1, axis=-1)
    return _keep_largest(logits_BV, k_B1, kth_B1)


def apply_top_p(logits_BV: jax.Array, p: Any) -> jax.Array:
    """Keeps the nucleus: the fewest likeliest tokens whose probability is at least p.

    Holtzman et al. 2020, arXiv:1904.09751, eq. 2. p is one number or one a row, [B, 1].
    """
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    p_BV = jax.nn.softmax(sorted_BV, axis=-1)
    likelier_BV = jnp.cumsum(p_BV, axis=-1) - p_BV  # probability before each token
    count_B1 = jnp.maximum(jnp.sum(likelier_BV < p, axis=-1, keepdims=True), 1)
    least_B1 = jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1)
    kept_BV = _keep_largest(logits_BV, count_B1, least_B1)
    return jnp.where(jnp.asarray(p) >= 1, logits_BV, kept_BV)  # not left to rounding


def apply_min_p(logits_BV: jax.Array, p: Any) -> jax.Array:
    """Keeps tokens at least p times as likely as the row's likeliest.

    Nguyen et al. 2024, arXiv:2407.01082, 3.1. p is one number or one a row, [B, 1].
    """
    least_B1 = jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(p)  # -inf for 0
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
