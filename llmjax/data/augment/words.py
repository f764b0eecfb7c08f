"""Easy data augmentation of a text's words (Wei & Zou 2019, arXiv:1901.11196).

Words are what white space divides; it becomes single spaces. Punctuation stays where it
is when a word is replaced by a synonym, and so does a capital.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from llmjax.config import Augmentation
from llmjax.data.augment.wordnet import WordNet

Words = list[str]
READ_WORDNET = ("synonyms", "insertion")
_CORE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
# which synonyms are not looked for: WordNet knows "in" as an inch
_STOP_WORDS = """
    a about above after again against all am an and any are as at be because been
    before being below between both but by can did do does doing don down during
    each few for from further had has have having he her here hers herself him
    himself his how i if in into is it its itself just me more most my myself no nor
    not now of off on once only or other our ours ourselves out over own s same she
    should so some such t than that the their theirs them themselves then there
    these they this those through to too under until up very was we were what when
    where which while who whom why will with you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclasses.dataclass(frozen=True)
class Augmenter:
    """Changes of a text, by `data.augment`; picklable.

    Attributes:
      config: rates of the operations.
      wordnet: None: no operation reads it.
    """

    config: Augmentation
    wordnet: WordNet | None = None

    @classmethod
    def of(cls, config: Augmentation) -> "Augmenter":
        """The changes of a config.

        Raises:
          ValueError: they read WordNet, and its folder is not said.
          FileNotFoundError: it is not there.
        """
        reads = [name for name in config.rates if name in READ_WORDNET]
        if reads and not config.wordnet:
            raise ValueError(
                f"data.augment: {' and '.join(reads)} read WordNet, and wordnet is "
                "empty; give the folder of its index and data files, as "
                "/usr/share/wordnet of Debian's wordnet-base, or set the rate to 0"
            )
        return cls(config, WordNet(config.wordnet) if reads else None)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """A text, changed by one operation, each equally likely."""
        words = text.split()
        names = list(self.config.rates)
        name = names[int(rng.integers(len(names)))]
        rate = self.config.rates[name]
        if not words:
            return text
        if name == "deletion":
            return " ".join(deleted(words, rate, rng))
        count = max(1, round(rate * len(words)))
        if name == "swap":
            return " ".join(swapped(words, count, rng))
        assert self.wordnet is not None
        change: Callable[..., Words] = replaced if name == "synonyms" else inserted
        return " ".join(change(words, count, rng, self.wordnet))


def deleted(words: Words, rate: float, rng: np.random.Generator) -> Words:
    """Words without some; where all would go, one at random."""
    kept = [w for w, k in zip(words, rng.random(len(words)) >= rate, strict=True) if k]
    return kept or [words[int(rng.integers(len(words)))]]


def swapped(words: Words, count: int, rng: np.random.Generator) -> Words:
    """Words of which `count` pairs, one after the other, changed places."""
    words = list(words)
    for _ in range(count if len(words) > 1 else 0):
        i, j = rng.choice(len(words), 2, replace=False).tolist()
        words[i], words[j] = words[j], words[i]
    return words


def replaced(
    words: Words, count: int, rng: np.random.Generator, wordnet: WordNet
) -> Words:
    """Words of which `count` different ones are a synonym each, wherever they stand."""
    chosen: dict[str, str] = {}
    for name in _shuffled(_contents(words), rng):
        if len(chosen) == count:
            break
        if synonyms := wordnet.synonyms(name):
            chosen[name] = synonyms[int(rng.integers(len(synonyms)))]
    return [_with_core(word, chosen.get(_core(word), "")) for word in words]


def inserted(
    words: Words, count: int, rng: np.random.Generator, wordnet: WordNet
) -> Words:
    """Words with `count` synonyms of some of them at random places."""
    words, names = list(words), _contents(words)
    known = [name for name in names if wordnet.synonyms(name)]
    for _ in range(count if known else 0):
        synonyms = wordnet.synonyms(known[int(rng.integers(len(known)))])
        place = int(rng.integers(len(words) + 1))
        words.insert(place, synonyms[int(rng.integers(len(synonyms)))])
    return words


def _core(word: str) -> str:
    """A word in small letters without the punctuation around it."""
    match = _CORE.match(word)
    return match[2].lower() if match else ""


def _contents(words: Sequence[str]) -> Words:
    """The different words that have a meaning, in their order."""
    names = dict.fromkeys(map(_core, words))
    return [name for name in names if name and name not in STOP_WORDS]


def _with_core(word: str, core: str) -> str:
    """A word with another within its punctuation; "": the word itself."""
    match = _CORE.match(word)
    if not core or match is None:
        return word
    if match[2][:1].isupper():
        core = core[:1].upper() + core[1:]
    return f"{match[1]}{core}{match[3]}"


def _shuffled(names: Words, rng: np.random.Generator) -> Words:
    return [names[k] for k in rng.permutation(len(names))]
