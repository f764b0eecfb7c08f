"""The best spans of rows by scores of their ends, and answers made of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.batches.answer_windows import Asked


class Best(NamedTuple):
    """The best spans of each row, the best first; a score of -inf is none.

    Attributes:
      first, last: int32 [B, n], places in the row.
      score: float32 [B, n].
    """

    first: jax.Array
    last: jax.Array
    score: jax.Array


def best(first_BT: jax.Array, last_BT: jax.Array, longest: int, number: int) -> Best:
    """The spans with the highest sum of the scores of their first and last place.

    Args:
      first_BT, last_BT: float32, -inf where none begins or ends.
      longest: places of a span.
      number: of spans.
    """
    T = first_BT.shape[1]
    longest = min(longest, T)
    ends_BTS = jnp.stack(
        [
            jnp.pad(last_BT[:, s:], ((0, 0), (0, s)), constant_values=-jnp.inf)
            for s in range(longest)
        ],
        axis=-1,
    )
    sums_BTS = first_BT[..., None] + ends_BTS
    flat = sums_BTS.reshape(len(first_BT), -1)
    score, place = jax.lax.top_k(flat, min(number, flat.shape[1]))
    first = (place // longest).astype(jnp.int32)
    return Best(first, first + (place % longest).astype(jnp.int32), score)


def answer(
    asked: Asked,
    windows: Sequence[tuple[int, Mapping[str, Any]]],
    number: int,
    threshold: float | None,
) -> dict[str, Any]:
    """The answer to a question, of the best spans of its windows.

    Args:
      asked: the question.
      windows: of each the place of its first token in the text, and its prediction.
      number: of answers among which probabilities are shared out.
      threshold: "none" is the answer where it scores so much above the best one, by
        its score in the window where it scores least; None: there always is one.

    Returns:
      `answer`, the characters [`start`, `stop`) of the text and `probability`, a
      softmax over the `n_best` and, with a threshold, "none" (`run_squad.py`); "" and
      None where there is no answer. With a threshold also `none`, its score less the
      best's.
    """
    found: dict[tuple[int, int], float] = {}
    for begin, row in windows:
        for first, last, score in zip(
            row["first"], row["last"], row["score"], strict=True
        ):
            if np.isfinite(score):
                place = _characters(asked, begin + int(first), begin + int(last))
                found[place] = max(float(score), found.get(place, -np.inf))
    ranked = sorted(found.items(), key=lambda item: -item[1])[:number]
    nothing: dict[str, Any] = {"answer": "", "start": None, "stop": None}
    if not ranked:
        surely = {} if threshold is None else {"none": None}
        return {**nothing, "probability": 1.0, **surely, "n_best": []}
    scores = [score for _, score in ranked]
    none = min(float(row["none"]) for _, row in windows)
    weights = np.exp(np.array([*scores, none]) - max(*scores, none))
    weights = weights if threshold is not None else weights[:-1]
    shares = (weights / weights.sum()).tolist()
    n_best = [
        {"answer": asked.text[a:b], "start": a, "stop": b, "probability": p}
        for ((a, b), _), p in zip(ranked, shares, strict=False)
    ]
    chosen = dict(n_best[0])
    if threshold is None:
        return {**chosen, "n_best": n_best}
    above = none - scores[0]
    if above > threshold:
        chosen = {**nothing, "probability": shares[-1]}
    return {**chosen, "none": above, "n_best": n_best}


def _characters(asked: Asked, first: int, last: int) -> tuple[int, int]:
    """The characters of tokens [first, last], without white space around them."""
    start, stop = int(asked.offsets[first, 0]), int(asked.offsets[last, 1])
    text = asked.text[start:stop]
    return stop - len(text.lstrip()), start + len(text.rstrip())
