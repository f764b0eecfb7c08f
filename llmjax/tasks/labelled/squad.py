"""Exact match and F1 of answers, as SQuAD's own scripts count them.

After `evaluate-v1.1.py` and `evaluate-v2.0.py` (Rajpurkar et al. 2016, 2018): answers
are compared without case, punctuation, articles and extra spaces; of several right
answers the best counts. A question without an answer is right where none is given. Both
numbers are shares here, where the scripts print percent.
"""

import collections
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def normalised(text: str) -> str:
    """An answer as it is compared."""
    letters = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", letters).split())


def exact_match(answer: str, right: str) -> float:
    """1.0 where two answers are the same as they are compared, else 0.0."""
    return float(normalised(answer) == normalised(right))


def f1(answer: str, right: str) -> float:
    """F1 of the words that two answers share; of empty ones 1 where both are."""
    words, others = normalised(answer).split(), normalised(right).split()
    if not words or not others:
        return float(words == others)
    both = sum((collections.Counter(words) & collections.Counter(others)).values())
    return 2 * both / (len(words) + len(others))


def scores(answer: str, right: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 against the best of the right answers; (): there is none."""
    there = [text for text in right if normalised(text)] or [""]
    return (
        max(exact_match(answer, text) for text in there),
        max(f1(answer, text) for text in there),
    )


def report(rows: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """The means over questions, and where some have no answer those of either kind.

    Args:
      rows: an answer, "" for none, and all right ones of each question.
    """
    parts: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for answer, right in rows:
        parts[any(map(normalised, right))].append(scores(answer, right))
    both = _means([*parts[True], *parts[False]])
    if not parts[False] or not parts[True]:
        return both
    return {**both, "answered": _means(parts[True]), "unanswered": _means(parts[False])}


def _means(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    n = len(pairs)
    sums = (sum(pair[k] for pair in pairs) for k in (0, 1))
    exact, overlap = (total / max(n, 1) for total in sums)
    return {"exact_match": exact, "f1": overlap, "questions": n}
