"""Beam search: the likeliest texts, not the likeliest token at a time.

The search is transformers': each step keeps the K likeliest continuations of a row, and
the K best texts that ended, by sum of log-probabilities / length ** length_penalty. It
is one loop on the device: the beams lie side by side as rows of the cache, whose keys
and values move with them; an encoder's stay where they are.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import ModelConfig
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
    texts = checked(model.cfg, prompts, max_new_tokens, pad_id)
    if not texts:
        return []
    rules = Rules(
        beams,
        max_new_tokens,
        float(length_penalty),
        early_stopping,
        stops(model.cfg, stop_tokens),
        pad_id,
    )
    lengths = [len(text) for text in texts]
    stretch = _stretch(model.cfg, rules, lengths, n_best)
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
        np.array(lengths, np.int32) - 1,
        encoded,
        stretch,
        rules=rules,
    )
    tokens_BKM, lengths_BK, scores_BK, finite_B = map(np.asarray, found)
    check_finite(model, params, finite_B)
    ends = rules.stop_tokens
    return [
        [
            _hypothesis(tokens_BKM[b, k, : lengths_BK[b, k]], scores_BK[b, k], ends)
            for k in range(n_best)
        ]
        for b in range(len(texts))
    ]


def _stretch(
    cfg: ModelConfig, rules: "Rules", lengths: Sequence[int], n_best: int
) -> Stretch:
    """The one stretch of a search's steps; raises ValueError for what it can't do."""
    if not 1 <= n_best <= rules.beams:
        raise ValueError(
            f"n_best is {n_best} and beams is {rules.beams}; n_best is from 1 to beams"
        )
    if rules.candidates > rules.beams * cfg.vocab_size:
        raise ValueError(
            f"{len(rules.stop_tokens)} stop_tokens leave no other token of a "
            f"vocabulary of {cfg.vocab_size}; give fewer"
        )
    (stretch, *others) = stretches(cfg, lengths, rules.max_new_tokens)
    if others:
        raise ValueError(
            "the model's rates of rotation change with the length of a text, here at "
            f"token {others[0].first} of the continuation, which beams don't follow; "
            "give fewer max_new_tokens, shorter prompts, or beams=1"
        )
    return stretch


def _hypothesis(tokens: np.ndarray, score: Any, ends: Sequence[int]) -> Hypothesis:
    ended = len(tokens) and int(tokens[-1]) in ends
    return Hypothesis(tokens[:-1] if ended else tokens, float(score))


class _Beams(NamedTuple):
    """The state of the loop: K beams of each row, of up to M tokens.

    Attributes:
      step: number of the token that comes next.
      last_BK, tokens_BKM, scores_BK: of the beams that go on, the best first.
      ended: the best texts that ended; there are fewer than K at first.
      open_B: whether a row can still get better ones.
      all_end: whether no beam of any row goes on.
      finite_B: whether all logits were.
      cache: of B * K rows.
    """

    step: Any
    last_BK: Any
    tokens_BKM: Any
    scores_BK: Any
    ended: "_Ended"
    open_B: Any
    all_end: Any
    finite_B: Any
    cache: Cache


class _Ended(NamedTuple):
    """Texts that ended, K of each row: their tokens, lengths, scores, and whether
    there is one."""

    tokens_BKM: Any
    lengths_BK: Any
    scores_BK: Any
    there_BK: Any


class _Candidates(NamedTuple):
    """The C likeliest continuations of a row's beams, the best first.

    Attributes:
      parent_BC: which of the beams each goes on from.
      token_BC, tokens_BCM: its last token, and all.
      scores_BC: sums of log-probabilities.
      end_BC: whether it ends here.
      length: of each.
    """

    parent_BC: Any
    token_BC: Any
    tokens_BCM: Any
    scores_BC: Any
    end_BC: Any
    length: Any


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a search does, fixed while it is compiled; see `beam_search`."""

    beams: int
    max_new_tokens: int
    length_penalty: float
    early_stopping: EarlyStopping
    stop_tokens: tuple[int, ...]
    pad_id: int

    @property
    def candidates(self) -> int:
        """C: enough that K of them go on where all that can end do."""
        return self.beams * max(2, 1 + len(self.stop_tokens))

    def start(self, tokens_B: Any, cache: Cache) -> _Beams:
        """All beams of a row at its prompt's last token; `cache` has B rows."""
        B, K, M = len(tokens_B), self.beams, self.max_new_tokens
        empty_BKM = jnp.full((B, K, M), self.pad_id, jnp.int32)
        zeros_BK, none_BK = jnp.zeros((B, K), jnp.int32), jnp.full((B, K), _NONE)
        return _Beams(
            step=jnp.zeros((), jnp.int32),
            last_BK=jnp.broadcast_to(jnp.asarray(tokens_B)[:, None], (B, K)),
            tokens_BKM=empty_BKM,
            # all beams are equal: one counts
            scores_BK=jnp.zeros((B, K)).at[:, 1:].set(_NONE),
            ended=_Ended(empty_BKM, zeros_BK, none_BK, jnp.zeros((B, K), bool)),
            open_B=jnp.ones(B, bool),
            all_end=jnp.zeros((), bool),
            finite_B=jnp.ones(B, bool),
            cache=cache.take(jnp.repeat(jnp.arange(B), K), cross=True),
        )

    def more(self, beams: _Beams) -> jax.Array:
        """Whether another step may change a result."""
        on = jnp.any(beams.open_B) & ~beams.all_end
        if self.early_stopping == "always":
            on &= ~jnp.all(beams.ended.there_BK)
        return on & (beams.step < self.max_new_tokens)

    def step(
        self, beams: _Beams, log_p_BKV: jax.Array, finite_B: jax.Array, cache: Cache
    ) -> _Beams:
        """The beams after one more token, of these log-probabilities."""
        found = self._continued(beams, log_p_BKV)
        closed_B = ~beams.open_B
        if self.early_stopping == "always":
            closed_B |= jnp.all(beams.ended.there_BK, axis=1)
        ended = self._ended(beams.ended, found, closed_B)
        going_BK, at_BK = jax.lax.top_k(
            found.scores_BC + _NONE * found.end_BC, self.beams
        )
        rows_BK = jnp.arange(len(at_BK))[:, None] * self.beams
        rows_BK += _chosen(found.parent_BC, at_BK)
        return _Beams(
            step=found.length,
            last_BK=_chosen(found.token_BC, at_BK),
            tokens_BKM=_chosen(found.tokens_BCM, at_BK),
            scores_BK=going_BK,
            ended=ended,
            open_B=beams.open_B & self._can_improve(ended, going_BK, found.length),
            all_end=jnp.all(found.end_BC),
            finite_B=beams.finite_B & (finite_B | closed_B),
            cache=cache.take(rows_BK.reshape(-1), cross=False),
        )

    def _continued(self, beams: _Beams, log_p_BKV: jax.Array) -> _Candidates:
        B, K, V = log_p_BKV.shape
        summed = (log_p_BKV + beams.scores_BK[..., None]).reshape(B, K * V)
        scores_BC, flat_BC = jax.lax.top_k(summed, self.candidates)
        parent_BC, token_BC = flat_BC // V, flat_BC % V
        length = beams.step + 1
        ends = jnp.array(self.stop_tokens, jnp.int32)
        tokens_BCM = _chosen(beams.tokens_BKM, parent_BC)
        return _Candidates(
            parent_BC,
            token_BC,
            tokens_BCM.at[:, :, beams.step].set(token_BC),
            scores_BC,
            jnp.isin(token_BC, ends) | (length == self.max_new_tokens),
            length,
        )

    def _ended(self, before: _Ended, found: _Candidates, closed_B: jax.Array) -> _Ended:
        """The best of those that ended before and those of the K likeliest that do."""
        new_BC = found.end_BC & (jnp.arange(self.candidates) < self.beams)
        worse_BC = closed_B[:, None].astype(jnp.float32) + ~new_BC
        scores_BC = self._normalised(found.scores_BC, found.length) + _NONE * worse_BC
        lengths_BC = jnp.full(new_BC.shape, found.length, jnp.int32)
        new = _Ended(found.tokens_BCM, lengths_BC, scores_BC, new_BC)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), before, new)
        _, from_BK = jax.lax.top_k(both.scores_BK, self.beams)
        return jax.tree.map(lambda x: _chosen(x, from_BK), both)

    def _can_improve(self, ended: _Ended, going_BK: jax.Array, length: Any) -> Any:
        """[B]: could the best beam that goes on be among the best?"""
        never = self.early_stopping == "never" and self.length_penalty > 0
        at_length = self.max_new_tokens if never else length
        possible_B = self._normalised(going_BK[:, 0], at_length)
        worst_B1 = ended.scores_BK.min(axis=1, keepdims=True)
        worst_BK = jnp.where(ended.there_BK, worst_B1, _NONE)
        return jnp.any(possible_B[:, None] > worst_BK, axis=1)

    def _normalised(self, scores: jax.Array, length: Any) -> jax.Array:
        return scores / jnp.asarray(length, jnp.float32) ** self.length_penalty


@functools.partial(jax.jit, static_argnames=("model", "rules"))
def search(
    model: Generator,
    params: Params,
    cache: Cache,
    tokens_B: jax.Array | np.ndarray,
    positions_B: jax.Array | np.ndarray,
    encoded: Encoded | None,
    stretch: Stretch,
    *,
    rules: Rules,
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
    B, K = len(tokens_B), rules.beams
    rows_N = jnp.repeat(jnp.arange(B), K)  # b of each of the cache's rows
    if encoded is not None:
        encoded = jax.tree.map(lambda x: x[rows_N], encoded)

    def advance(beams: _Beams) -> _Beams:
        batch = {
            "tokens": beams.last_BK.reshape(-1, 1),
            "segment_ids": jnp.ones((B * K, 1), jnp.int32),
            "positions": jnp.asarray(positions_B)[rows_N, None] + beams.step,
        }
        if stretch.lengths_B is not None:
            batch["lengths"] = jnp.asarray(stretch.lengths_B)[rows_N, None]
        logits_BTV, cache = apply(model, params, batch, beams.cache, encoded)
        logits_BKV = logits_BTV[:, -1].astype(jnp.float32).reshape(B, K, -1)
        finite_B = jnp.isfinite(logits_BKV).all((1, 2))
        return rules.step(beams, jax.nn.log_softmax(logits_BKV), finite_B, cache)

    end = jax.lax.while_loop(rules.more, advance, rules.start(tokens_B, cache))
    ended = end.ended
    return ended.tokens_BKM, ended.lengths_BK, ended.scores_BK, end.finite_B


def _chosen(values: jax.Array, index_BK: jax.Array) -> jax.Array:
    """values[b, index[b, k], ...] at [b, k, ...]."""
    index = index_BK.reshape(*index_BK.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)
