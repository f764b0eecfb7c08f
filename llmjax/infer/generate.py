"""Prompts in, continuations out: prefill once, then a token at a time from the cache.

A prompt's tokens but the last fill the cache; the last one starts the loop, which
feeds a token and draws the next. So prefill needs no logits, and the compiler drops
them. Prompts of different lengths are padded on the left, so that all rows write the
cache at one slot.

Where rates of rotation follow a text's length, keys that a cache holds were turned by
the rates of another length. LongRope has two sets of rates: the cache is filled again
where a row outgrows `original_length`, so each token is what an uncached forward pass
of the text before it gives, as in transformers' Phi-3 of one prompt (of several,
transformers takes the longest's rates for all). Dynamic rates change with each token:
they are those of the row's whole text, prompt and `max_new_tokens` together, from the
first token on (transformers mixes the rates of all lengths so far).
"""

import functools
import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import DynamicScaling, LayoutConfig, ModelConfig
from llmjax.infer.prompts import (
    Prompt,
    Token,
    check_finite,
    check_positions,
    check_tokens,
    checked,
    pad_left,
    stops,
)
from llmjax.infer.sampling import DEFAULT, RowSampling, Sampling, rows_of, sample
from llmjax.models.cache import Cache, empty_cache
from llmjax.models.forward import Applicable, forward, variables
from llmjax.models.layers import compute_dtype
from llmjax.models.positions.lengths import follow_length

Params = Any


@runtime_checkable
class Generator(Applicable, Protocol):
    """A model that generates, such as `LanguageModel`; hashable.

    An encoder-decoder also has a method `encode` of a batch, whose states it takes as
    a third argument when it fills the cache.
    """

    @property
    def cfg(self) -> ModelConfig:
        """Vocabulary, positions and the cache's shape are read off it."""

    @property
    def layout(self) -> LayoutConfig:
        """Its precision is the cache's."""

    def __call__(self, batch: Any, cache: Cache, /) -> tuple[jax.Array, Any]:
        """Float32 logits [B, T, V], and the cache with the batch's T tokens."""


def generates(model: Any) -> TypeGuard[Generator]:
    """Whether a model predicts next tokens from a cache."""
    parameters = inspect.signature(type(model).__call__).parameters
    return "cache" in parameters and model.cfg.architecture != "encoder"


@flax.struct.dataclass
class Encoded:
    """An encoder's states for the decoder, computed once.

    Attributes:
      states_BSD: the encoder's last hidden states.
      segments_BS: 1 where a real token stands, 0 where padding does.
    """

    states_BSD: Any
    segments_BS: Any


@flax.struct.dataclass
class Stretch:
    """Steps of `decode` in which no row's rates of rotation change.

    Attributes:
      first, until: the number of the first one, and of the first one after it.
      lengths_B: of the texts, as the rates follow them; None where none do.
    """

    first: Any
    until: Any
    lengths_B: Any = None


def generate(
    model: Generator,
    params: Params,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampling: Sampling = DEFAULT,
    rng: int | jax.Array = 0,
    rows: Sequence[int] | None = None,
    stop_tokens: Token | Sequence[Token] = (),
    pad_id: int = 0,
    encoder_tokens: Sequence[Prompt] | None = None,
) -> list[np.ndarray]:
    """Continues each prompt; returns its new tokens only, int32, one array a prompt.

    Compiles once per model, number of prompts, bucket of the longest (`bucket`),
    `max_new_tokens` and `stop_tokens`.

    Args:
      model: a decoder, or an encoder-decoder.
      params: its parameters.
      prompts: token ids, of any lengths; for an encoder-decoder, of the decoder.
      max_new_tokens: the most tokens that a prompt gets.
      sampling: how a token is drawn.
      rng: a seed or key. A draw depends on (rng, the row's number, step) and on
        nothing else, so other prompts in the batch do not change it.
      rows: the rows' numbers; 0, 1, 2… when None. Give them to cut a long list of
        prompts into batches whose draws differ, or to repeat one row alone.
      stop_tokens: a row ends at the first of these that it draws, which is left out;
        one or several.
      pad_id: any token of the vocabulary; nothing sees it.
      encoder_tokens: for an encoder-decoder, the encoder's tokens of each prompt.

    Raises:
      ValueError: an empty prompt, a token outside the vocabulary, more positions than
        the model has learned, or arguments that do not fit each other.
    """
    cfg = model.cfg
    texts = checked(cfg, prompts, max_new_tokens, pad_id)
    if not texts:
        return []
    rows = range(len(texts)) if rows is None else rows
    if len(rows) != len(texts):
        raise ValueError(
            f"rows has {len(rows)} numbers for {len(texts)} prompts; give one each"
        )
    ends = stops(cfg, stop_tokens)
    encoded = encode_prompts(model, params, len(texts), encoder_tokens, pad_id)
    parts = stretches(cfg, [len(text) for text in texts], max_new_tokens)
    longest = max(len(text) for text in texts) - 1 + parts[-1].first
    drawn = [text[:0] for text in texts]
    done_B = np.zeros(len(texts), bool)
    for stretch in parts:
        before = [np.append(t, d) for t, d in zip(texts, drawn, strict=True)]
        prefix = pad_left([text[:-1] for text in before], pad_id, longest)
        if stretch.lengths_B is not None:
            T = prefix["tokens"].shape[1]
            prefix["lengths"] = np.repeat(stretch.lengths_B[:, None], T, axis=1)
        cache_length = prefix["tokens"].shape[1] + max_new_tokens
        tokens_BM, counts_B, finite_B, _ = decode(
            model,
            params,
            prefill(model, params, prefix, encoded, cache_length=cache_length),
            np.array([text[-1] for text in before], np.int32),
            np.array([len(text) - 1 for text in before], np.int32),
            jax.random.key(rng) if isinstance(rng, int) else rng,
            np.array(rows, np.int32),
            encoded,
            stretch,
            done_B,
            rows_of([sampling] * len(texts)),
            max_new_tokens=max_new_tokens,
            stop_tokens=ends,
            pad_id=pad_id,
        )
        new_BM, counts_B = (
            np.asarray(tokens_BM)[:, stretch.first :],
            np.asarray(counts_B),
        )
        pairs = zip(drawn, new_BM, counts_B, strict=True)
        drawn = [np.append(d, new_M[:count]) for d, new_M, count in pairs]
        check_finite(model, params, np.asarray(finite_B))
        done_B = counts_B < stretch.until - stretch.first
    return drawn


@functools.partial(jax.jit, static_argnames=("model", "cache_length"))
def prefill(
    model: Generator,
    params: Params,
    batch: Mapping[str, jax.Array | np.ndarray],
    encoded: Encoded | None = None,
    *,
    cache_length: int,
) -> Cache:
    """A cache of `cache_length` slots with the batch's tokens in the first T.

    The batch holds `tokens`, `segment_ids` and `positions` [B, T], as of `pad_left`;
    and `lengths` for a model whose rates of rotation follow them.
    """
    B = batch["tokens"].shape[0]
    source = 0 if encoded is None else encoded.segments_BS.shape[1]
    dtype = compute_dtype(model.layout)
    cache = empty_cache(model.cfg, B, cache_length, dtype, source)
    states = () if encoded is None else (encoded.states_BSD,)
    return apply(model, params, batch, cache, encoded, *states)[1]


@functools.partial(
    jax.jit,
    static_argnames=("model", "max_new_tokens", "stop_tokens", "pad_id"),
    donate_argnames=("cache",),
)
def decode(
    model: Generator,
    params: Params,
    cache: Cache,
    tokens_B: jax.Array | np.ndarray,
    positions_B: jax.Array | np.ndarray,
    key: jax.Array,
    rows_B: jax.Array | np.ndarray,
    encoded: Encoded | None = None,
    stretch: Stretch | None = None,
    done_B: jax.Array | np.ndarray | None = None,
    sampling: RowSampling | None = None,
    *,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...] = (),
    pad_id: int = 0,
) -> tuple[jax.Array, jax.Array, jax.Array, Cache]:
    """Draws up to M = `max_new_tokens` tokens, until every row has drawn a stop token.

    Args:
      model: a decoder, or an encoder-decoder.
      params: its parameters.
      cache: of the tokens before, with a free slot for each step; donated.
      tokens_B, positions_B: each row's last token, not in the cache, and its position.
      key, rows_B: row b's draw at step s uses the key folded with rows_B[b], then s.
      encoded: of an encoder-decoder.
      stretch: the steps to take; None: all, from 0.
      done_B: rows that ended in an earlier stretch; None: none has.
      sampling: of each row; None: from the model's own distribution.
      max_new_tokens, stop_tokens, pad_id: see `generate`.

    Returns:
      Tokens [B, M] at the numbers of their steps, `pad_id` after each row's end; how
      many are the row's own [B]; whether all its logits were finite [B], or the row
      ends there; and the cache, in the memory of the argument.
    """
    if stretch is None:
        stretch = Stretch(0, max_new_tokens)
    first, until = stretch.first, stretch.until
    B = cache.positions_BS.shape[0]
    rows = rows_of([DEFAULT] * B) if sampling is None else sampling
    keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(rows_B)
    stops = jnp.array(stop_tokens, jnp.int32)

    def more(carry):
        step, *_, done_B = carry
        return (step < until) & ~jnp.all(done_B)

    def draw(carry):
        step, last_B, cache, out_BM, length_B, finite_B, done_B = carry
        batch = {
            "tokens": last_B[:, None],
            "segment_ids": jnp.ones((B, 1), jnp.int32),
            "positions": (positions_B + step - first)[:, None],
        }
        if stretch.lengths_B is not None:
            batch["lengths"] = jnp.asarray(stretch.lengths_B)[:, None]
        logits_BTV, cache = apply(model, params, batch, cache, encoded)
        step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        next_B = sample(logits_BTV[:, -1], step_keys_B, rows)
        finite_B &= done_B | jnp.isfinite(logits_BTV[:, -1]).all(-1)
        done_B = done_B | jnp.isin(next_B, stops) | ~finite_B
        next_B = jnp.where(done_B, pad_id, next_B)
        out_BM = jax.lax.dynamic_update_slice(out_BM, next_B[:, None], (0, step))
        return step + 1, next_B, cache, out_BM, length_B + ~done_B, finite_B, done_B

    start = (
        jnp.asarray(first, jnp.int32),
        jnp.asarray(tokens_B),
        cache,
        jnp.full((B, max_new_tokens), pad_id, jnp.int32),
        jnp.zeros(B, jnp.int32),
        jnp.ones(B, bool),
        jnp.zeros(B, bool) if done_B is None else jnp.asarray(done_B),
    )
    _, _, cache, out_BM, length_B, finite_B, _ = jax.lax.while_loop(more, draw, start)
    return out_BM, length_B, finite_B, cache


@functools.partial(jax.jit, static_argnames=("model",))
def encode(
    model: Generator, params: Params, batch: Mapping[str, jax.Array | np.ndarray]
) -> Encoded:
    """Runs the encoder of an encoder-decoder over a batch as of `pad_left`."""
    renamed = {f"encoder_{k}": v for k, v in batch.items()}
    states_BSD, _ = forward(model, variables(params), renamed, method="encode")
    return Encoded(states_BSD, jnp.asarray(batch["segment_ids"]))


def apply(model, params, batch, cache, encoded, *states_BSD):
    """Logits [B, T, V] and the cache, which holds the encoder's keys after prefill."""
    if encoded is not None:
        batch = {**batch, "encoder_segment_ids": encoded.segments_BS}
    return forward(model, variables(params), batch, cache, *states_BSD)[0]


def stretches(
    cfg: ModelConfig, lengths: Sequence[int], max_new_tokens: int
) -> list[Stretch]:
    """All steps for prompts of these lengths, cut where a row's rates change."""
    scalings, starts = follow_length(cfg), {0}
    lengths_B = np.array(lengths, np.int32)
    if not scalings:
        return [Stretch(0, max_new_tokens)]
    if any(isinstance(scaling, DynamicScaling) for scaling in scalings):
        return [Stretch(0, max_new_tokens, lengths_B + max_new_tokens)]
    for scaling in scalings:
        starts |= {scaling.original_length + 1 - length for length in lengths}
    steps = sorted(step for step in starts if 0 <= step < max_new_tokens)
    return [
        Stretch(first, until, lengths_B + first)
        for first, until in itertools.pairwise([*steps, max_new_tokens])
    ]


def encode_prompts(
    model: Generator,
    params: Params,
    count: int,
    encoder_tokens: Sequence[Prompt] | None,
    pad_id: int,
) -> Encoded | None:
    """The encoder's states for `count` prompts; None for a decoder."""
    cfg = model.cfg
    if cfg.architecture == "encoder":
        raise ValueError(
            "model.architecture is 'encoder', which does not generate; give a "
            "'decoder' or an 'encoder_decoder'"
        )
    if (cfg.architecture == "encoder_decoder") != (encoder_tokens is not None):
        raise ValueError(
            f"encoder_tokens {'is missing' if encoder_tokens is None else 'are given'}"
            f" and model.architecture is {cfg.architecture!r}; an encoder_decoder "
            "needs them and a decoder has no use for them"
        )
    if encoder_tokens is None:
        return None
    if len(encoder_tokens) != count:
        raise ValueError(
            f"encoder_tokens has {len(encoder_tokens)} rows for {count} prompts; "
            "give one a prompt"
        )
    rows: list[np.ndarray] = [np.asarray(row, np.int32) for row in encoder_tokens]
    check_tokens(cfg, "encoder_tokens", rows)
    check_positions(cfg, "encoder_tokens", max(len(row) for row in rows))
    return encode(model, params, pad_left(rows, pad_id))
