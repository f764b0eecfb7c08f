"""Sentences of words as examples: whole, or in windows where they are long.

Each word is told by one window: the one in which it has text on both sides, of a
quarter of the window where there is so much.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class Sentence(NamedTuple):
    """A sentence's tokens, each of a word, and every word with a token at least.

    Attributes:
      ids: int32 [n], without special tokens.
      word_ids: int32 [n], the word of each token, rising.
      tags: int32 [words]; -1 for none.
    """

    ids: np.ndarray
    word_ids: np.ndarray
    tags: np.ndarray


@runtime_checkable
class Sentences(Protocol):
    """Random access to sentences, and their sizes without reading them."""

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each, int64 [len]."""

    @property
    def words(self) -> np.ndarray:
        """Words of each, int64 [len]."""

    def __getitem__(self, index: int, /) -> Sentence: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """Sentences in memory."""

    sentences: list[Sentence]

    @property
    def tokens(self) -> np.ndarray:
        return np.array([len(s.ids) for s in self.sentences], np.int64)

    @property
    def words(self) -> np.ndarray:
        return np.array([len(s.tags) for s in self.sentences], np.int64)

    def __getitem__(self, index: int, /) -> Sentence:
        return self.sentences[index]


class Windows:
    """Examples of sentences: {"tokens", "word", "label"}, int32 [n] each.

    `word` is the number of the word that a token begins, from 1 on, and 0 for other
    tokens and words without a tag. The words of a sentence follow each other, and
    between two sentences a number is left out. `label` is that word's tag.

    Attributes:
      sentences: that these are of.
      owners: int64 [len], the sentence of each. One without words has no window.
      starts: int64 [sentences], the number of each sentence's first word.
    """

    def __init__(self, sentences: Sentences, length: int):
        """Cuts sentences of more than `length` tokens.

        Raises:
          ValueError: `length` is not positive.
        """
        if length < 1:
            raise ValueError(
                f"texts of {length} tokens: a row has no room for text beside the "
                "task's special tokens; raise data.seq_len"
            )
        self.sentences = sentences
        tokens, words = sentences.tokens, sentences.words
        self.starts = np.cumsum(words + 1) - words
        rows = np.stack([np.arange(len(words)), 0 * words, tokens, 0 * words, words], 1)
        whole = rows[(tokens <= length) & (words > 0)]
        cut = [
            (k, *window)
            for k in np.flatnonzero((tokens > length) & (words > 0)).tolist()
            for window in _cut(_firsts(sentences[k].word_ids), int(tokens[k]), length)
        ]
        both = np.concatenate([whole, np.array(cut, np.int64).reshape(-1, 5)])
        self._rows = both[np.argsort(both[:, 0], kind="stable")]
        self.owners = self._rows[:, 0]

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each, int64 [len]."""
        return self._rows[:, 2] - self._rows[:, 1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        owner, start, stop, begin, end = self._rows[index].tolist()
        sentence = self.sentences[owner]
        places = _firsts(sentence.word_ids)[begin:end] - start
        tags = sentence.tags[begin:end]
        word, label = np.zeros((2, stop - start), np.int32)
        numbers = self.starts[owner] + np.arange(begin, end)
        word[places] = np.where(tags < 0, 0, numbers)
        label[places] = np.maximum(tags, 0)
        return {"tokens": sentence.ids[start:stop], "word": word, "label": label}


def _firsts(word_ids: np.ndarray) -> np.ndarray:
    """The place of each word's first token."""
    return np.flatnonzero(np.diff(word_ids, prepend=-1))


def _cut(
    firsts: np.ndarray, tokens: int, length: int
) -> Iterator[tuple[int, int, int, int]]:
    """The tokens [start, stop) of each window, and the words [begin, end) it tells."""
    margin, begin, words = length // 4, 0, len(firsts)
    while begin < words:
        near = int(np.searchsorted(firsts, firsts[begin] - margin))
        start = int(firsts[min(near, begin)])
        stop = min(start + length, tokens)
        inner = int(np.searchsorted(firsts, stop - margin))
        end = words if stop == tokens else max(inner, begin + 1)
        yield start, stop, begin, end
        begin = end


def filled(
    ids: np.ndarray, word_ids: np.ndarray, words: int, filler: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and their words, with `filler` for each word that has no token."""
    missing = np.setdiff1d(np.arange(words, dtype=np.int32), word_ids)
    places = np.searchsorted(word_ids, missing)
    return np.insert(ids, places, filler), np.insert(word_ids, places, missing)
