"""Groups of consecutive sentences, from which pairs of segments are cut."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.data.batches.pipeline import Source
from llmjax.data.tokenizers.vocabulary import Vocabulary

_BLOCK = 1 << 20  # tokens that are split into sentences at a time


class SentenceGroups:
    """Groups of at least two consecutive sentences of one document.

    A group takes sentences until it has `num_tokens` tokens, as google-research/bert's
    create_pretraining_data.py does; what is left at a document's end is a group too,
    but for a last single sentence. Which sentences are a group is decided once, so that
    a group is an example that any epoch finds again.

    Attributes:
      lengths: int64 [len], the tokens of each group, at most `num_tokens` of which a
        pair can show.
    """

    def __init__(self, documents: Source, vocabulary: Vocabulary, num_tokens: int):
        """Reads all documents once.

        Raises:
          ValueError: no document has two sentences.
        """
        self._documents = documents
        sizes, counts = _sentences(documents, vocabulary)
        self._starts = np.append(0, np.cumsum(sizes))  # in the line of all tokens
        self._last = np.cumsum(counts)  # sentence of each document, exclusive
        self._first = self._last - counts
        self._spoken = np.flatnonzero(counts)  # documents that are not empty
        begins, ends = _groups(self._first, self._last, self._starts, num_tokens)
        if not len(begins):
            raise ValueError(
                f"none of the {len(documents)} documents has two sentences, which a "
                "pair needs; use another data.source or task"
            )
        order = np.argsort(begins)
        self._begins, self._ends = begins[order], ends[order]
        sizes = self._starts[self._ends] - self._starts[self._begins]
        self.lengths = np.minimum(sizes, num_tokens)

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Group `index` as an example.

        Returns:
          `tokens` int32 [n]; `sentences`, their lengths; `document`, its index; and
          `groups`, this object.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"group {index} of {len(self)}")
        begin, end = int(self._begins[index]), int(self._ends[index])
        document = int(np.searchsorted(self._last, begin, "right"))
        return {
            "tokens": self._read(document, begin, end),
            "sentences": np.diff(self._starts[begin : end + 1]),
            "document": document,
            "groups": self,
        }

    def elsewhere(
        self, document: int, num_tokens: int, rng: np.random.Generator, tries: int = 10
    ) -> np.ndarray:
        """Sentences of another document from a random one on, int32 [n].

        They end with the first that makes them `num_tokens`, or with the document. Of
        `tries` documents and starts the first that has enough is taken, else the
        longest.

        Raises:
          ValueError: there is no other document.
        """
        own = int(np.searchsorted(self._spoken, document))
        if len(self._spoken) < 2:
            raise ValueError(
                "a sentence of another document is needed, and the source has one "
                "document; use another data.source, or task.kind 'sentence_order'"
            )
        best = 0, 0, 0, 0
        for _ in range(tries):
            k = int(rng.integers(len(self._spoken) - 1))
            other = int(self._spoken[k + (k >= own)])
            first, last = int(self._first[other]), int(self._last[other])
            begin = int(rng.integers(first, last))
            goal = self._starts[begin] + num_tokens
            end = min(max(int(np.searchsorted(self._starts, goal)), begin + 1), last)
            size = int(self._starts[end] - self._starts[begin])
            best = max(best, (size, other, begin, end))
            if size >= num_tokens:
                break
        return self._read(*best[1:])

    def _read(self, document: int, begin: int, end: int) -> np.ndarray:
        """Sentences [begin, end) of the corpus, all of `document`."""
        origin = self._starts[self._first[document]]
        start, stop = self._starts[begin] - origin, self._starts[end] - origin
        return self._documents[document]["tokens"][start:stop].astype(np.int32)


def _sentences(
    documents: Source, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """The length of every sentence, and how many sentences each document has."""
    sizes: list[np.ndarray] = []
    counts = np.zeros(len(documents), np.int64)
    ends = np.cumsum(documents.lengths)
    first = 0
    while first < len(documents):  # in blocks: a call for each would take longer
        reach = ends[first] + _BLOCK
        last = max(first + 1, int(np.searchsorted(ends, reach)))
        texts = [np.asarray(documents[i]["tokens"]) for i in range(first, last)]
        tokens = np.concatenate(texts)
        last_of_text = np.cumsum([len(t) for t in texts])
        is_end = np.array(vocabulary.sentence_ends(tokens), bool)
        is_end[last_of_text[last_of_text > 0] - 1] = True
        places = np.flatnonzero(is_end) + 1
        sizes.append(np.diff(places, prepend=0))
        ends_before = np.searchsorted(places, last_of_text, "right")
        counts[first:last] = np.diff(ends_before, prepend=0)
        first = last
    return np.concatenate([np.zeros(0, np.int64), *sizes]), counts


def _groups(
    first: np.ndarray, last: np.ndarray, starts: np.ndarray, num_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sentences [begin, end) of every group: the next one of all documents at a time.

    Args:
      first, last: sentences [first, last) of each document.
      starts: where sentences begin in the line of tokens, and where the last ends.
    """
    begins, ends = [], []
    here, last = first[last - first > 1], last[last - first > 1]
    while len(here):
        enough = np.searchsorted(starts, starts[here] + num_tokens)
        end = np.minimum(np.maximum(enough, here + 2), last)
        begins.append(here)
        ends.append(end)
        more = last - end > 1
        here, last = end[more], last[more]
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *begins]), np.concatenate([none, *ends])


def first_sentences(
    example: Mapping[str, Any], num_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """`tokens` and `sentences` of a group until it has so many tokens, two at least."""
    sizes = example["sentences"]
    ends = np.cumsum(sizes)
    count = max(2, int(np.searchsorted(ends, num_tokens)) + 1)
    count = min(count, len(sizes))
    return example["tokens"][: ends[count - 1]], sizes[:count]


def truncated(
    a: np.ndarray, b: np.ndarray, num_tokens: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both without what is too much, one token after the other from the longer one.

    Each is taken from the front or the back by a fair coin (`truncate_seq_pair`).
    """
    excess = max(0, len(a) + len(b) - num_tokens)
    of_longer = min(excess, abs(len(a) - len(b)))
    rest = excess - of_longer
    lost_a = of_longer * (len(a) > len(b)) + rest // 2
    lost_b = of_longer * (len(b) > len(a)) + rest - rest // 2  # of equals b is first
    front_a, front_b = rng.binomial(lost_a, 0.5), rng.binomial(lost_b, 0.5)
    return (
        a[front_a : len(a) - (lost_a - front_a)],
        b[front_b : len(b) - (lost_b - front_b)],
    )
