"""Prompts of different lengths as one batch, and what is wrong with them."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmjax.config import EinsumAttention, Learned, ModelConfig
from llmjax.models import finite

Token = int | np.integer
Prompt = np.ndarray | Sequence[Token]
SHORTEST = 32  # tokens of the shortest rows that are compiled


def checked(
    cfg: ModelConfig, prompts: Sequence[Prompt], max_new_tokens: int, pad_id: int
) -> list[np.ndarray]:
    """The prompts as int32 arrays.

    Raises:
      ValueError: an empty one, a token outside the vocabulary, or more positions than
        the model has learned.
    """
    texts = [np.asarray(prompt, np.int32) for prompt in prompts]
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if texts:
        check_tokens(cfg, "prompt", texts)
        longest = max(len(text) for text in texts)
        words = f"a prompt of {longest} tokens with max_new_tokens={max_new_tokens}"
        # the last token that is drawn is not read any more
        check_positions(cfg, words, longest + max_new_tokens - 1)
    check_tokens(cfg, "pad_id", [np.array([pad_id])])
    return texts


def stops(cfg: ModelConfig, stop_tokens: Token | Sequence[Token]) -> tuple[int, ...]:
    """The tokens that end a text, one or several.

    Raises:
      ValueError: one outside the vocabulary.
    """
    if isinstance(stop_tokens, int | np.integer):
        stop_tokens = (stop_tokens,)
    ids = tuple(int(token) for token in stop_tokens)
    if ids:
        check_tokens(cfg, "stop_tokens", [np.array(ids)])
    return ids


def bucket(length: int) -> int:
    """`length` rounded up to a power of two from 8 to 64, then to a multiple of 64."""
    if length > 64:
        return -(-length // 64) * 64
    return max(8, 1 << (length - 1).bit_length())


def doubling(longest: int, attention: Any) -> np.ndarray:
    """Lengths of rows, each twice the one before, the last one `longest`; int64.

    Args:
      longest: tokens that a model reads.
      attention: of its layout; one in tiles wants rows of at least one tile.
    """
    first = SHORTEST if isinstance(attention, EinsumAttention) else 4 * SHORTEST
    sizes = itertools.takewhile(
        lambda size: size < longest, (first * 2**k for k in itertools.count())
    )
    return np.array([*sizes, longest], np.int64)


def pad_left(
    rows: Sequence[np.ndarray], pad_id: int, longest: int = 0
) -> dict[str, np.ndarray]:
    """One batch of rows of different lengths, T = `bucket` of the longest.

    T has room for `longest` tokens too, if it is more.

    `tokens`, `segment_ids` (0 for padding, 1 for tokens) and `positions` (from 0 at
    each row's first token), all int32 [B, T].
    """
    T = bucket(max(longest, *(len(row) for row in rows)))
    tokens_BT = np.full((len(rows), T), pad_id, np.int32)
    for b, row in enumerate(rows):
        tokens_BT[b, T - len(row) :] = row
    lengths_B = np.array([len(row) for row in rows], np.int32)
    positions_BT = np.arange(T, dtype=np.int32) - (T - lengths_B)[:, None]
    return {
        "tokens": tokens_BT,
        "segment_ids": (positions_BT >= 0).astype(np.int32),
        "positions": np.maximum(positions_BT, 0),
    }


def check_finite(model: Any, params: Any, finite_B: np.ndarray) -> None:
    """Raises ValueError where logits were not finite, with the reason."""
    if finite_B.all():
        return
    why = finite.reason(params, model.layout.precision)
    raise ValueError(
        f"prompt {int(np.argmin(finite_B))} has logits that are not finite; {why}"
    )


def check_positions(cfg: ModelConfig, what: str, length: int) -> None:
    """Raises ValueError where `what` needs more positions than were learned."""
    positions = cfg.positions
    if isinstance(positions, Learned) and length > positions.max_length:
        raise ValueError(
            f"{what} needs {length} positions and the model has learned "
            f"model.positions.max_length={positions.max_length}; shorten it"
        )


def check_tokens(cfg: ModelConfig, name: str, rows: Sequence[np.ndarray]) -> None:
    """Raises ValueError for a row that is empty or has a token of another model."""
    for i, row in enumerate(rows):
        if row.ndim != 1 or not len(row):
            raise ValueError(
                f"{name} {i} has shape {row.shape}; it must be a list of at least one "
                "token (a beginning-of-text token will do)"
            )
        wrong = row[(row < 0) | (row >= cfg.vocab_size)]
        if len(wrong):
            raise ValueError(
                f"{name} {i} holds token {wrong[0]}, outside the vocabulary of "
                f"{cfg.vocab_size}; encode it with the model's own tokenizer"
            )
