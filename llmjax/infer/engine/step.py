"""The one program of an engine: some tokens of some rows in, the next of each out."""

import functools
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.infer.engine import penalties
from llmjax.infer.generate import Generator
from llmjax.infer.sampling import RowSampling, sample
from llmjax.models.forward import forward, variables
from llmjax.models.paged import PagedCache, place

TOP = 20  # most likely tokens that are told of each step


@runtime_checkable
class Steppable(Generator, Protocol):
    """A decoder that gives the logits of one token a row."""

    def last_logits(self, batch: Any, cache: Any, last_B: Any, /) -> Any:
        """See `LanguageModel.last_logits`."""


@flax.struct.dataclass
class Rows:
    """What a step reads of its rows, as numpy arrays.

    Attributes:
      slots_B: where their last tokens are kept.
      table_BM, lengths_B, counts_B: see `paged.place`; a row of no tokens is padding.
      seeds_B, numbers_B, draws_B: what a draw depends on: the text's seed, its number
        among those of this seed, and the number of the token in it.
      is_drawn_B: bool, whether the token that a row draws becomes one of its text.
      sampling: how tokens are drawn.
      penalties: how what was said changes that.
      top: bool scalar, whether any row asks for the likeliest tokens.
    """

    slots_B: Any
    table_BM: Any
    lengths_B: Any
    counts_B: Any
    seeds_B: Any
    numbers_B: Any
    draws_B: Any
    is_drawn_B: Any
    sampling: RowSampling
    penalties: penalties.RowPenalties
    top: Any


@flax.struct.dataclass
class State:
    """What an engine keeps on the device from step to step; S slots.

    Attributes:
      layers: the pool of pages.
      last_S: each slot's last token.
      said: what each slot's text has said.
    """

    layers: Any
    last_S: Any
    said: penalties.Said


@flax.struct.dataclass
class Drawn:
    """What a step gives of each row.

    Attributes:
      tokens_B: the next token.
      log_p_B: its log-probability by the model, before sampling changes it.
      top_BK, top_log_p_BK: the likeliest tokens and theirs; zeros where no row asks.
      finite_B: whether all logits were.
    """

    tokens_B: Any
    log_p_B: Any
    top_BK: Any
    top_log_p_BK: Any
    finite_B: Any


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("state",))
def step(
    model: Steppable,
    params: Any,
    state: State,
    rows: Rows,
    tokens_BT: Any = None,
    allowed_BW: Any = None,
) -> tuple[State, Drawn]:
    """Reads T tokens of each row and draws the one after them.

    Args:
      model, params: a decoder.
      state: donated.
      rows: those that take part.
      tokens_BT: what they read; None: each its slot's last token.
      allowed_BW: uint32, bit i of word w says whether token 32 w + i may be drawn;
        None: all may.
    """
    layers = state.layers
    if tokens_BT is None:
        tokens_BT = state.last_S[rows.slots_B][:, None]
    T, page = tokens_BT.shape[1], layers[0][0].own.k_LBSKH.shape[2]
    counts_B = jnp.asarray(rows.counts_B)
    lengths_B = jnp.asarray(rows.lengths_B)
    table_BM = jnp.asarray(rows.table_BM)
    at = place(table_BM, lengths_B, counts_B, T, page)
    batch = {
        "tokens": tokens_BT,
        "segment_ids": (jnp.arange(T) < counts_B[:, None]).astype(jnp.int32),
    }
    cache = PagedCache(layers, at, lengths_B + counts_B)
    last_B = jnp.maximum(counts_B - 1, 0)
    (logits_BV, cache), _ = forward(
        model, variables(params), batch, cache, last_B, method="last_logits"
    )
    drawn = _draw(logits_BV, state.said, rows, allowed_BW)
    last_S = state.last_S.at[rows.slots_B].set(drawn.tokens_B)
    said = penalties.add(state.said, rows.slots_B, drawn.tokens_B, rows.is_drawn_B)
    return State(cache.layers, last_S, said), drawn


def _draw(
    logits_BV: jax.Array, said: penalties.Said, rows: Rows, allowed_BW: Any
) -> Drawn:
    def key(seed: Any, number: Any, draw: Any) -> jax.Array:
        return jax.random.fold_in(
            jax.random.fold_in(jax.random.key(seed), number), draw
        )

    B, V = logits_BV.shape
    K = min(TOP, V)
    log_p_BV = jax.nn.log_softmax(logits_BV)
    top_log_p_BK, top_BK = jax.lax.cond(
        rows.top,
        lambda: tuple(jax.lax.top_k(log_p_BV, K)),
        lambda: (jnp.zeros((B, K)), jnp.zeros((B, K), jnp.int32)),
    )
    finite_B = jnp.isfinite(logits_BV).all(-1)
    logits_BV = penalties.apply(logits_BV, said, rows.slots_B, rows.penalties)
    if allowed_BW is not None:
        index_V = jnp.arange(V)
        bit_V = (index_V % 32).astype(jnp.uint32)
        is_allowed_BV = (jnp.asarray(allowed_BW)[:, index_V // 32] >> bit_V) & 1
        logits_BV = jnp.where(is_allowed_BV > 0, logits_BV, -jnp.inf)
    keys_B = jax.vmap(key)(rows.seeds_B, rows.numbers_B, rows.draws_B)
    tokens_B = sample(logits_BV, keys_B, rows.sampling)
    log_p_B = jnp.take_along_axis(log_p_BV, tokens_B[:, None], axis=1)[:, 0]
    return Drawn(tokens_B, log_p_B, top_BK, top_log_p_BK, finite_B)
