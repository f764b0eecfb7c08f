"""What a text has said already weighs on what it says next: penalties and a bias.

Each slot of an engine has a row of counts on the device. It is written anew when a text
joins, and a step adds the token that it draws, so that the host sends no counts.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Penalties:
    """How a text's own tokens and a bias change its logits, in this order.

    Attributes:
      repetition: divides the positive logits of tokens that the prompt or the
        continuation has, and multiplies the negative ones (Keskar et al. 2019,
        arXiv:1909.05858, 4.1, as in transformers).
      frequency: is subtracted once for each time that the continuation has the token.
      presence: is subtracted where the continuation has the token.
      bias: (token, what is added to its logit).

    Raises:
      ValueError: a value out of its range; it names the field and what is accepted.
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self):
        if not 0 < self.repetition < math.inf:
            raise ValueError(
                f"repetition is {self.repetition}; it must be above 0; 1 changes none"
            )
        for name in ("frequency", "presence"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"{name} is {value}; it must be finite")
        for token, value in self.bias:
            if not math.isfinite(value):
                raise ValueError(f"the bias of token {token} is {value}; it is finite")

    @property
    def neutral(self) -> bool:
        """Whether nothing changes."""
        return self == NONE


NONE = Penalties()


@flax.struct.dataclass
class Said:
    """What each slot's text has said, on the device.

    Attributes:
      read_SV: bool, whether the prompt has the token.
      drawn_SV: int32, how many times the continuation has it.
      bias_SV: float32, what is added to its logit.
    """

    read_SV: Any
    drawn_SV: Any
    bias_SV: Any


@flax.struct.dataclass
class RowPenalties:
    """`Penalties` of each row of a batch, as arrays: no value compiles anew.

    Attributes:
      repetition_B, frequency_B, presence_B: float32.
      weighs_B: bool, whether a row has any, its bias among them.
    """

    repetition_B: Any
    frequency_B: Any
    presence_B: Any
    weighs_B: Any


def nothing_said(slots: int, vocab_size: int) -> Said:
    """Of `slots` texts that have not begun."""
    shape = (slots, vocab_size)
    return Said(jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32), jnp.zeros(shape))


def rows_of(penalties: Sequence[Penalties]) -> RowPenalties:
    """The penalties of a batch, one a row, as numpy arrays."""

    def column(name: str) -> np.ndarray:
        return np.array([getattr(p, name) for p in penalties], np.float32)

    return RowPenalties(
        column("repetition"),
        column("frequency"),
        column("presence"),
        np.array([not p.neutral for p in penalties], bool),
    )


def begin(said: Said, slot: int, penalties: Penalties, prompt: Any, drawn: Any) -> Said:
    """Writes a slot's row anew, for a text that joins; `said` is donated."""
    vocab_size = said.read_SV.shape[1]
    read_V = np.zeros(vocab_size, bool)
    read_V[np.asarray(prompt, np.int64)] = True
    drawn_V = np.bincount(np.asarray(drawn, np.int64), minlength=vocab_size)
    bias_V = np.zeros(vocab_size, np.float32)
    for token, value in penalties.bias:
        bias_V[token] = value
    return _write(said, np.int32(slot), read_V, drawn_V.astype(np.int32), bias_V)


@functools.partial(jax.jit, donate_argnames=("said",))
def _write(said: Said, slot: Any, read_V: Any, drawn_V: Any, bias_V: Any) -> Said:
    return Said(
        said.read_SV.at[slot].set(read_V),
        said.drawn_SV.at[slot].set(drawn_V),
        said.bias_SV.at[slot].set(bias_V),
    )


def apply(
    logits_BV: jax.Array, said: Said, slots_B: Any, rows: RowPenalties
) -> jax.Array:
    """The logits that a batch draws from; nothing is computed where no row asks."""

    def changed() -> jax.Array:
        drawn_BV = said.drawn_SV[slots_B]
        has_BV = drawn_BV > 0
        factor_B1 = rows.repetition_B[:, None]
        scaled_BV = jnp.where(
            logits_BV > 0, logits_BV / factor_B1, logits_BV * factor_B1
        )
        out_BV = jnp.where(has_BV | said.read_SV[slots_B], scaled_BV, logits_BV)
        out_BV -= rows.frequency_B[:, None] * drawn_BV
        out_BV -= rows.presence_B[:, None] * has_BV
        out_BV += said.bias_SV[slots_B]
        return jnp.where(rows.weighs_B[:, None], out_BV, logits_BV)

    return jax.lax.cond(jnp.any(rows.weighs_B), changed, lambda: logits_BV)


def add(said: Said, slots_B: Any, tokens_B: Any, is_drawn_B: Any) -> Said:
    """With the tokens that a step drew."""
    counts_B = jnp.asarray(is_drawn_B).astype(jnp.int32)
    drawn_SV = said.drawn_SV.at[slots_B, tokens_B].add(counts_B)
    return Said(said.read_SV, drawn_SV, said.bias_SV)
