"""Each rule of Gopher drops what it is for, and plain prose breaks none."""

import random

import pytest

from llmjax.config import PrepareConfig
from llmjax.data.cleaning import filters

rng = random.Random(0)
WORDS = [
    "".join(rng.choice("bcdfgklmnprst") + rng.choice("aeiou") for _ in range(n))
    for n in (1, 2, 2, 3, 3, 4) * 60
]
FEW = ["the", "of", "and", "to", "have", "with"]


def prose(n: int = 200, seed: int = 1) -> list[str]:
    """Words, every fifth a stop word, in lines of ten."""
    rng = random.Random(seed)
    return [rng.choice(FEW if k % 5 == 0 else WORDS) for k in range(n)]


def lines(words: list[str], per_line: int = 10) -> list[str]:
    starts = range(0, len(words), per_line)
    return [" ".join(words[k : k + per_line]) for k in starts]


TEXT = "\n".join(lines(prose()))


def test_prose_breaks_no_rule() -> None:
    for seed in range(20):
        assert filters.gopher("\n".join(lines(prose(seed=seed)))) == ""
    assert filters.rules(PrepareConfig()) == ()
    assert filters.rules(PrepareConfig(quality="gopher")) == (filters.gopher,)


def mixed(part: str, share: float) -> str:
    """Prose whose lines are, to that share, `part` and a word."""
    rows = lines(prose(400))
    for k in range(int(share * len(rows))):
        rows[k] = part.format(row=rows[k])
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("rule", "broken", "kept"),
    [
        ("word_count", " ".join(prose(49)), " ".join(prose(50))),
        (
            "word_length",
            " ".join("a of to be" for _ in range(40)),
            TEXT,
        ),
        ("word_length", TEXT.replace(" ", "xxxxxx and-"), TEXT),
        ("hash_signs", TEXT + " #" * 30, TEXT + " #" * 20),
        ("ellipses", TEXT + " so..." * 30, TEXT + " so..." * 20),
        ("ellipses", TEXT + " so…" * 30, TEXT + " so…" * 20),
        ("bullet_lines", mixed("- {row}", 0.95), mixed("- {row}", 0.85)),
        ("ellipsis_lines", mixed("{row}...", 0.35), mixed("{row}...", 0.25)),
        ("alphabetic_words", TEXT + " 12345" * 60, TEXT + " 12345" * 1),
        (
            "stop_words",
            "\n".join(lines([w if w not in FEW else "the" for w in prose()])),
            TEXT,
        ),
    ],
)
def test_quality(rule: str, broken: str, kept: str) -> None:
    assert filters.gopher(broken) == rule
    assert filters.gopher(kept) != rule


def test_the_longest_document() -> None:
    assert filters._quality("", ["word"] * 100_001, [])[0] == ("word_count", True)
    assert filters._quality("", ["word"] * 100_000, [])[0] == ("word_count", False)


@pytest.mark.parametrize(
    ("length", "broken"), [(2.9, True), (3.0, False), (10.0, False), (10.1, True)]
)
def test_the_mean_length_of_words(length: float, broken: bool) -> None:
    longer = round(100 * (length % 1))  # of a hundred words
    words = ["a" * (int(length) + (k < longer)) for k in range(100)]
    assert filters._quality("", words, [])[1] == ("word_length", broken)


def repeated(share: float, words: int, separator: str) -> str:
    """Of 100 lines (of some words), `share` copies of the first; the others unique."""
    rows = lines(prose(100 * words), words)
    copies = int(100 * share)
    return separator.join(rows[:1] * (copies + 1) + rows[copies + 1 :])


def lines_broken(text: str) -> list[str]:
    rows = [line for line in text.split("\n") if line.strip()]
    return [rule for rule, broken in filters._lines(text, rows) if broken]


def test_repeated_lines_and_paragraphs() -> None:
    assert "duplicate_lines" in lines_broken(repeated(0.33, 10, "\n"))
    assert "duplicate_lines" not in lines_broken(repeated(0.27, 10, "\n"))
    assert "duplicate_line_characters" in lines_broken(repeated(0.24, 10, "\n"))
    assert lines_broken(repeated(0.15, 10, "\n")) == []
    assert "duplicate_paragraphs" in lines_broken(repeated(0.33, 10, "\n\n"))
    assert "duplicate_paragraphs" not in lines_broken(repeated(0.27, 10, "\n\n"))
    assert "duplicate_paragraph_characters" in lines_broken(repeated(0.24, 10, "\n \n"))
    assert lines_broken(repeated(0.15, 10, "\n\n")) == []
    # Few lines, but long ones.
    long = "\n".join([*lines(prose(300), 5), *[" ".join(prose(60, seed=5))] * 3])
    assert lines_broken(long) == ["duplicate_line_characters"]


UNIQUE = [f"w{k:04d}" for k in range(1000)]  # five characters each


@pytest.mark.parametrize(("n", "most"), [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_top_ngrams(n: int, most: float) -> None:
    def text(share: float) -> list[str]:
        """One n-gram again and again, single words between."""
        times, gram = int(share * 1000 / n), [f"g{k:04d}" for k in range(n)]
        words = [w for k in range(times) for w in (*gram, UNIQUE[k])]
        return words + UNIQUE[times : 1000 - n * times]

    assert f"top_{n}_gram" in broken_ngrams(text(most + 0.015))
    assert f"top_{n}_gram" not in broken_ngrams(text(most - 0.015))


@pytest.mark.parametrize(
    ("n", "most"), [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)]
)
def test_repeated_ngrams(n: int, most: float) -> None:
    def text(share: float) -> list[str]:
        """Different n-grams twice each, single words between."""
        pairs = int(share * 1000 / (2 * n))
        words: list[str] = []
        for k in range(pairs):
            gram = [f"g{k:02d}{i:02d}" for i in range(n)]
            words += [*gram, UNIQUE[2 * k], *gram, UNIQUE[2 * k + 1]]
        return words + UNIQUE[2 * pairs : 1000 - 2 * n * pairs]

    assert f"repeated_{n}_grams" in broken_ngrams(text(most + 0.02))
    assert f"repeated_{n}_grams" not in broken_ngrams(text(most - 0.025))


def broken_ngrams(words: list[str]) -> list[str]:
    return [rule for rule, broken in filters._ngrams(words) if broken]


def test_language() -> None:
    pytest.importorskip("py3langid")
    english = filters.language("en")
    assert english("The house stands at the end of the road, and nobody is home.") == ""
    assert english("Das Haus steht am Ende der Straße, und niemand ist da.") != ""
    with pytest.raises(ValueError, match=r"language='english'.*accepted: .*, en, "):
        filters.language("english")


def test_without_its_library_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)
    with pytest.raises(ModuleNotFoundError, match=r"'en'.*llmjax\[filters\]"):
        filters.language("en")
