"""Beam search: the likeliest texts, not the likeliest token at a time.

The search is transformers': each step keeps the K likeliest continuations of a row, and
the K best texts that ended, by sum of log-probabilities / length ** length_penalty. It
is one loop on the device: the beams lie side by side as rows of the cache, whose keys
and values move with them; an encoder's stay where they are.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.infer.generate import (
    Encoded,
    Generator,
    Params,
    Stretch,
    apply,
    encode_prompts,
    prefill,
    stretches,
)
from llmjax.infer.prompts import Prompt, Token, check_finite, checked, pad_left, stops
from llmjax.models.cache import Cache

EarlyStopping = Literal["heuristic", "always", "never"]
_NONE = -1e9  # the score of a text that is not there


class Hypothesis(NamedTuple):
    """A text that a search found.

    Attributes:
      tokens: the new ones, int32 [n], without the one that ends it.
      score: sum of log-probabilities, the end's among them, / length **
        length_penalty.
    """

    tokens: np.ndarray
    score: float


def beam_search(
    model: Generator,
    params: Params,
    prompts: Sequence[Prompt],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = "heuristic",
    n_best: int = 1,
    stop_tokens: Token | Sequence[Token] = (),
    pad_id: int = 0,
    encoder_tokens: Sequence[Prompt] | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations of each prompt, the best first.

    A row's result does not depend on the others. Compiles once per model, number of
    prompts, bucket of the longest and the other arguments.

    Args:
      model, params, prompts, max_new_tokens, stop_tokens, pad_id, encoder_tokens: see
        `generate`.
      beams: texts that a row goes on with.
      length_penalty: above 0 favours long texts, below 0 short ones.
      early_stopping: a row ends when none of its beams would be among its best if it
        ended now ("heuristic", transformers' False), when as many texts as beams have
        ended ("always", True), or when none could be among the best at any length
        ("never").
      n_best: of each row that are returned.

    Raises:
      ValueError: as `generate`; or `n_best` or `beams` are out of range.
    """
    cfg = model.cfg
    if not 1 <= n_best <= beams:
        raise ValueError(
            f"n_best is {n_best} and beams is {beams}; n_best is from 1 to beams"
        )
    texts = checked(cfg, prompts, max_new_tokens, pad_id)
    if not texts:
        return []
    ends = stops(cfg, stop_tokens)
    wanted = beams * max(2, 1 + len(ends))
    if wanted > beams * cfg.vocab_size:
        raise ValueError(
            f"{len(ends)} stop_tokens leave no other token of a vocabulary of "
            f"{cfg.vocab_size}; give fewer"
        )
    (stretch, *others) = stretches(cfg, [len(text) for text in texts], max_new_tokens)
    if others:
        raise ValueError(
            "the model's rates of rotation change with the length of a text, here at "
            f"token {others[0].first} of the continuation, which beams don't follow; "
            "give fewer max_new_tokens, shorter prompts, or beams=1"
        )
    encoded = encode_prompts(model, params, len(texts), encoder_tokens, pad_id)
    prefix = pad_left([text[:-1] for text in texts], pad_id)
    T = prefix["tokens"].shape[1]
    if stretch.lengths_B is not None:
        prefix["lengths"] = np.repeat(stretch.lengths_B[:, None], T, axis=1)
    found = search(
        model,
        params,
        prefill(model, params, prefix, encoded, cache_length=T + max_new_tokens),
        np.array([text[-1] for text in texts], np.int32),
        np.array([len(text) - 1 for text in texts], np.int32),
        encoded,
        stretch,
        beams=beams,
        max_new_tokens=max_new_tokens,
        length_penalty=float(length_penalty),
        early_stopping=early_stopping,
        stop_tokens=ends,
        pad_id=pad_id,
    )
    tokens_BKM, lengths_BK, scores_BK, finite_B = map(np.asarray, found)
    check_finite(model, params, finite_B)
    return [
        [
            _hypothesis(tokens_BKM[b, k, : lengths_BK[b, k]], scores_BK[b, k], ends)
            for k in range(n_best)
        ]
        for b in range(len(texts))
    ]


def _hypothesis(tokens: np.ndarray, score: Any, ends: Sequence[int]) -> Hypothesis:
    ended = len(tokens) and int(tokens[-1]) in ends
    return Hypothesis(tokens[:-1] if ended else tokens, float(score))


class _Beams(NamedTuple):
    """The state of the loop: K beams of each row, of up to M tokens.

    Attributes:
      step: number of the token that comes next.
      last_BK, tokens_BKM, scores_BK: of the beams that go on, the best first.
      ended_BKM, lengths_BK, best_BK, is_ended_BK: the best texts that ended; there are
        fewer than K at first.
      open_B: whether a row can still get better ones.
      all_end: whether no beam of any row goes on.
      finite_B: whether all logits were.
      cache: of B * K rows.
    """

    step: Any
    last_BK: Any
    tokens_BKM: Any
    scores_BK: Any
    ended_BKM: Any
    lengths_BK: Any
    best_BK: Any
    is_ended_BK: Any
    open_B: Any
    all_end: Any
    finite_B: Any
    cache: Cache


@functools.partial(
    jax.jit,
    static_argnames=(
        "model",
        "beams",
        "max_new_tokens",
        "length_penalty",
        "early_stopping",
        "stop_tokens",
        "pad_id",
    ),
)
def search(
    model: Generator,
    params: Params,
    cache: Cache,
    tokens_B: jax.Array | np.ndarray,
    positions_B: jax.Array | np.ndarray,
    encoded: Encoded | None,
    stretch: Stretch,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float,
    early_stopping: EarlyStopping,
    stop_tokens: tuple[int, ...],
    pad_id: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The loop of `beam_search`.

    Args:
      cache: of the tokens before, with a free slot for each step.
      tokens_B, positions_B: each row's last token, not in the cache, and its position.
      encoded, stretch: see `generate.decode`.

    Returns:
      Tokens [B, K, M], their lengths [B, K], the scores [B, K], best first, and whether
      a row's logits were all finite [B].
    """
    B, K, M = len(tokens_B), beams, max_new_tokens
    rows_BK = jnp.repeat(jnp.arange(B), K)  # b of each of the cache's rows
    first_BK = jnp.arange(B)[:, None] * K
    if encoded is not None:
        encoded = jax.tree.map(lambda x: x[rows_BK], encoded)
    penalty = functools.partial(_normalised, power=length_penalty)
    kept = K * max(2, 1 + len(stop_tokens))
    ends = jnp.array(stop_tokens, jnp.int32)

    def log_probabilities(carry: _Beams) -> tuple[jax.Array, jax.Array, Cache]:
        batch = {
            "tokens": carry.last_BK.reshape(-1, 1),
            "segment_ids": jnp.ones((B * K, 1), jnp.int32),
            "positions": jnp.asarray(positions_B)[rows_BK, None] + carry.step,
        }
        if stretch.lengths_B is not None:
            batch["lengths"] = jnp.asarray(stretch.lengths_B)[rows_BK, None]
        logits_BTV, cache = apply(model, params, batch, carry.cache, encoded)
        logits_BKV = logits_BTV[:, -1].astype(jnp.float32).reshape(B, K, -1)
        finite_B = jnp.isfinite(logits_BKV).all((1, 2))
        return jax.nn.log_softmax(logits_BKV), finite_B, cache

    def more(carry: _Beams) -> jax.Array:
        on = jnp.any(carry.open_B) & ~carry.all_end & (carry.step < M)
        if early_stopping == "always":
            on &= ~jnp.all(carry.is_ended_BK)
        return on

    def advance(carry: _Beams) -> _Beams:
        log_p_BKV, finite_B, cache = log_probabilities(carry)
        V, length = log_p_BKV.shape[-1], carry.step + 1
        summed = (log_p_BKV + carry.scores_BK[..., None]).reshape(B, K * V)
        scores_BC, flat_BC = jax.lax.top_k(summed, kept)  # C candidates of a row
        parent_BC, token_BC = flat_BC // V, flat_BC % V
        tokens_BCM = _chosen(carry.tokens_BKM, parent_BC)
        tokens_BCM = tokens_BCM.at[:, :, carry.step].set(token_BC)
        end_BC = jnp.isin(token_BC, ends) | (length == M)
        # those that go on
        going_BC = scores_BC + _NONE * end_BC
        going_BK, at_BK = jax.lax.top_k(going_BC, K)
        rows = (first_BK + _chosen(parent_BC, at_BK)).reshape(-1)
        # those that end, of the K likeliest alone, beside those that ended before
        new_BC = end_BC & (jnp.arange(kept) < K)
        closed_B = ~carry.open_B
        if early_stopping == "always":
            closed_B |= jnp.all(carry.is_ended_BK, axis=1)
        worse_BC = closed_B[:, None].astype(jnp.float32) + ~new_BC
        best_BC = penalty(scores_BC, length) + _NONE * worse_BC
        best_BK, from_BK = jax.lax.top_k(
            jnp.concatenate([carry.best_BK, best_BC], axis=1), K
        )

        def merged(old: jax.Array, new: jax.Array) -> jax.Array:
            return _chosen(jnp.concatenate([old, new], axis=1), from_BK)

        lengths_BC = jnp.full((B, kept), length, jnp.int32)
        is_ended_BK = merged(carry.is_ended_BK, new_BC)
        # could the best beam that goes on be among the best?
        never = early_stopping == "never" and length_penalty > 0
        possible_B = penalty(going_BK[:, 0], M if never else length)
        worst_BK = jnp.where(is_ended_BK, best_BK.min(axis=1, keepdims=True), _NONE)
        return _Beams(
            length,
            _chosen(token_BC, at_BK),
            _chosen(tokens_BCM, at_BK),
            going_BK,
            merged(carry.ended_BKM, tokens_BCM),
            merged(carry.lengths_BK, lengths_BC),
            best_BK,
            is_ended_BK,
            carry.open_B & jnp.any(possible_B[:, None] > worst_BK, axis=1),
            jnp.all(end_BC),
            carry.finite_B & (finite_B | closed_B),
            cache.take(rows, cross=False),
        )

    last_BK = jnp.broadcast_to(jnp.asarray(tokens_B)[:, None], (B, K))
    empty_BKM = jnp.full((B, K, M), pad_id, jnp.int32)
    start = _Beams(
        jnp.zeros((), jnp.int32),
        last_BK,
        empty_BKM,
        jnp.zeros((B, K)).at[:, 1:].set(_NONE),  # all beams are equal: one counts
        empty_BKM,
        jnp.zeros((B, K), jnp.int32),
        jnp.full((B, K), _NONE),
        jnp.zeros((B, K), bool),
        jnp.ones(B, bool),
        jnp.zeros((), bool),
        jnp.ones(B, bool),
        cache.take(rows_BK, cross=True),
    )
    end = jax.lax.while_loop(more, advance, start)
    return end.ended_BKM, end.lengths_BK, end.best_BK, end.finite_B


def _normalised(scores: jax.Array, length: Any, power: float) -> jax.Array:
    return scores / jnp.asarray(length, jnp.float32) ** power


def _chosen(values: jax.Array, index_BK: jax.Array) -> jax.Array:
    """values[b, index[b, k], ...] at [b, k, ...]."""
    index = index_BK.reshape(*index_BK.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)
