"""A linear-chain conditional random field (Lafferty et al. 2001; Lample et al. 2016).

A row of T places has the words of several sentences, and places that are no words: the
tag of a word depends on that of the word before it in its sentence, wherever that lies
in the row. optax has losses of sequences (CTC), but no such field; with a row's words
as they lie here it is two scans.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Transitions(NamedTuple):
    """Scores of tags beside each other.

    Attributes:
      between_CC: of a tag (row) and the next word's (column).
      first_C, last_C: of a sentence's first and last tag.
    """

    between_CC: jax.Array
    first_C: jax.Array
    last_C: jax.Array


class Words(NamedTuple):
    """The places of words in rows.

    Attributes:
      here_BT: whether a place is a word.
      new_BT: whether it is the first of its sentence.
      before_BT: the place of the word before it in the row; -1: none.
    """

    here_BT: jax.Array
    new_BT: jax.Array
    before_BT: jax.Array


def words_of(number_BT: Int[Array, "B T"]) -> Words:
    """The words of rows by their numbers, which a sentence has one after another; 0 for
    places that are no words."""
    here_BT = number_BT > 0
    places_T = jnp.arange(number_BT.shape[1])
    last_BT = jax.lax.cummax(jnp.where(here_BT, places_T, -1), axis=1)
    before_BT = jnp.pad(last_BT, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    number_before_BT = at(number_BT, before_BT)
    goes_on_BT = (before_BT >= 0) & (number_before_BT + 1 == number_BT)
    return Words(here_BT, here_BT & ~goes_on_BT, before_BT)


def at(values_BT: jax.Array, place_BT: jax.Array) -> jax.Array:
    """The values at places, those of the first one for -1."""
    return jnp.take_along_axis(values_BT, jnp.maximum(place_BT, 0), axis=1)


def log_normaliser(
    scores_BTC: Float[Array, "B T C"], words: Words, transitions: Transitions
) -> Float[Array, " B"]:
    """The log of the summed exp(score) of all paths, of a row's sentences together."""

    def step(carry, inputs):
        alpha_BC, some_B = carry
        score_BC, here_B, new_B = inputs
        inside_BC = jax.nn.logsumexp(alpha_BC[..., None] + transitions.between_CC, 1)
        ended_B = jax.nn.logsumexp(alpha_BC + transitions.last_C, axis=1)
        begun_BC = jnp.where(some_B, ended_B, 0.0)[:, None] + transitions.first_C
        next_BC = jnp.where(new_B[:, None], begun_BC, inside_BC) + score_BC
        return (jnp.where(here_B[:, None], next_BC, alpha_BC), some_B | here_B), None

    scores_BTC = scores_BTC.astype(jnp.float32)
    start = jnp.zeros_like(scores_BTC[:, 0]), jnp.zeros(len(scores_BTC), bool)
    (alpha_BC, some_B), _ = jax.lax.scan(step, start, _along(scores_BTC, words))
    return jnp.where(some_B, jax.nn.logsumexp(alpha_BC + transitions.last_C, 1), 0.0)


def path_score(
    scores_BTC: Float[Array, "B T C"],
    tags_BT: Int[Array, "B T"],
    words: Words,
    transitions: Transitions,
) -> Float[Array, " B"]:
    """The score of one path of tags, of a row's sentences together."""
    here_BT, new_BT, before_BT = words
    own_BT = jnp.take_along_axis(scores_BTC, tags_BT[..., None], axis=2)[..., 0]
    previous_BT = at(tags_BT, before_BT)
    ended_BT = jnp.where(before_BT >= 0, transitions.last_C[previous_BT], 0.0)
    begun_BT = transitions.first_C[tags_BT] + ended_BT
    inside_BT = transitions.between_CC[previous_BT, tags_BT]
    total_BT = own_BT + jnp.where(new_BT, begun_BT, inside_BT)
    T = here_BT.shape[1]
    final_B = T - 1 - jnp.argmax(here_BT[:, ::-1], axis=1)
    last_B = transitions.last_C[at(tags_BT, final_B[:, None])[:, 0]]
    return jnp.sum(total_BT * here_BT, axis=1) + last_B * here_BT.any(axis=1)


def viterbi(
    scores_BTC: Float[Array, "B T C"], words: Words, transitions: Transitions
) -> Int[Array, "B T"]:
    """The path of tags with the highest score; at places that are no words, any."""

    def step(alpha_BC, inputs):
        score_BC, here_B, new_B = inputs
        inside_BCC = alpha_BC[..., None] + transitions.between_CC
        ended_BC = alpha_BC + transitions.last_C
        begun_BC = jnp.max(ended_BC, axis=1, keepdims=True) + transitions.first_C
        new_B1 = new_B[:, None]
        from_BC = jnp.where(
            new_B1,
            jnp.argmax(ended_BC, axis=1, keepdims=True),
            jnp.argmax(inside_BCC, axis=1),
        )
        next_BC = jnp.where(new_B1, begun_BC, jnp.max(inside_BCC, axis=1)) + score_BC
        return jnp.where(here_B[:, None], next_BC, alpha_BC), from_BC

    def back(tag_B, inputs):
        from_BC, here_B = inputs
        before_B = jnp.take_along_axis(from_BC, tag_B[:, None], axis=1)[:, 0]
        return jnp.where(here_B, before_B, tag_B), tag_B

    scores_BTC = scores_BTC.astype(jnp.float32)
    along = _along(scores_BTC, words)
    alpha_BC, from_TBC = jax.lax.scan(step, jnp.zeros_like(scores_BTC[:, 0]), along)
    final_B = jnp.argmax(alpha_BC + transitions.last_C, axis=1)
    _, tags_TB = jax.lax.scan(back, final_B, (from_TBC, along[1]), reverse=True)
    return tags_TB.T


def marginals(
    scores_BTC: Float[Array, "B T C"], words: Words, transitions: Transitions
) -> Float[Array, "B T C"]:
    """The probability of each tag of each word: the gradient of the normaliser."""
    return jax.grad(lambda x: jnp.sum(log_normaliser(x, words, transitions)))(
        scores_BTC.astype(jnp.float32)
    )


def _along(
    scores_BTC: jax.Array, words: Words
) -> tuple[jax.Array, Bool[Array, "T B"], Bool[Array, "T B"]]:
    """What a scan over the places reads, places first."""
    return jnp.swapaxes(scores_BTC, 0, 1), words.here_BT.T, words.new_BT.T
