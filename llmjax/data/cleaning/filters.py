"""Filters of documents: language, and the rules of Gopher.

Rae et al. 2021, arXiv:2112.11446, A1.1: "Quality filtering" and "Repetition removal",
with table A1's thresholds.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from llmjax.config import PrepareConfig

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "‣", "◦", "▪", "●", "-", "*")
_ELLIPSES = ("...", "…")
_ALPHABETIC = re.compile(r"[^\W\d_]")

# n -> the largest share of characters that the most frequent n-gram may cover …
_TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
# … and that n-grams may cover which occur more than once.
_REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

Filter = Callable[[str], str]  # the rule that a text breaks, "" for none


@functools.lru_cache
def rules(prepare: PrepareConfig) -> tuple[Filter, ...]:
    """The filters of `prepare`, cheapest first.

    Raises:
      ModuleNotFoundError, ValueError: see `language`.
    """
    filters: list[Filter] = []
    if prepare.quality == "gopher":
        filters.append(gopher)
    if prepare.language is not None:
        filters.append(language(prepare.language))
    return tuple(filters)


def gopher(text: str) -> str:
    """The first of Gopher's rules that `text` breaks; "" if it keeps them all."""
    words = text.split()
    lines = [line for line in text.split("\n") if line.strip()]
    for name, broken in (*_quality(text, words, lines), *_lines(text, lines)):
        if broken:
            return name
    return next((name for name, broken in _ngrams(words) if broken), "")


def _quality(
    text: str, words: Sequence[str], lines: Sequence[str]
) -> tuple[tuple[str, bool], ...]:
    """Gopher's quality rules: words, symbols and lines of a document."""
    n = max(len(words), 1)
    ellipses = text.count("...") + text.count("…")
    bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines)
    trailing = sum(line.rstrip().endswith(_ELLIPSES) for line in lines)
    alphabetic = sum(_ALPHABETIC.search(word) is not None for word in words)
    stop_words = _STOP_WORDS.intersection(word.lower() for word in words)
    return (
        ("word_count", not 50 <= len(words) <= 100_000),
        ("word_length", not 3 <= sum(map(len, words)) / n <= 10),
        ("hash_signs", text.count("#") / n > 0.1),
        ("ellipses", ellipses / n > 0.1),
        ("bullet_lines", bullets > 0.9 * len(lines)),
        ("ellipsis_lines", trailing > 0.3 * len(lines)),
        ("alphabetic_words", alphabetic < 0.8 * n),
        ("stop_words", len(stop_words) < 2),
    )


def _lines(text: str, lines: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Repeated lines and paragraphs: their share, and that of their characters."""
    paragraphs = [p for p in re.split(r"\n\s*\n", text) if p.strip()]
    for name, parts in (("line", lines), ("paragraph", paragraphs)):
        times = Counter(map(str.strip, parts))
        copies = [*(times - Counter(set(times))).elements()]  # all but the first
        yield f"duplicate_{name}s", len(copies) > 0.3 * len(parts)
        characters = sum(map(len, copies))
        yield f"duplicate_{name}_characters", characters > 0.2 * len(text)


def _ngrams(words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Repeated n-grams, by their share of the words' characters."""
    total = sum(map(len, words))
    for n, most in _TOP_NGRAMS.items():
        grams = Counter(zip(*(words[k:] for k in range(n)), strict=False))
        cover = max(
            (sum(map(len, g)) * c for g, c in grams.items() if c > 1), default=0
        )
        yield f"top_{n}_gram", cover > most * total
    for n, most in _REPEATED_NGRAMS.items():
        grams = Counter(zip(*(words[k:] for k in range(n)), strict=False))
        if len(grams) == max(len(words) - n + 1, 0):  # then no longer one repeats
            return
        covered = [False] * len(words)
        for k, gram in enumerate(zip(*(words[k:] for k in range(n)), strict=False)):
            if grams[gram] > 1:
                covered[k : k + n] = [True] * n
        cover = sum(len(w) for w, c in zip(words, covered, strict=True) if c)
        yield f"repeated_{n}_grams", cover > most * total


def language(code: str) -> Filter:
    """A filter of texts in another language than `code` (ISO 639-1).

    Raises:
      ModuleNotFoundError: py3langid (Lui & Baldwin 2012's langid) is not installed.
      ValueError: it does not know the language.
    """
    try:
        import py3langid
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"data.prepare.language={code!r} needs py3langid, which is not installed; "
            "run `pip install 'llmjax[filters]'`"
        ) from None
    languages = sorted(name for name, _ in py3langid.rank("a text"))
    if code not in languages:
        raise ValueError(
            f"data.prepare.language={code!r} is not known; accepted: "
            f"{', '.join(languages)}"
        )

    def broken(text: str) -> str:
        return "" if py3langid.classify(text[:10_000])[0] == code else "language"

    return broken
