"""What a fine-tuned model is compared with: counts of words, in several forms.

Those of classes of texts are the quickstart's: the commonest class, and TF-IDF with
logistic regression.
"""

import collections
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text, in lower case, signs among them."""
    return _WORD.findall(text.lower())


# --- tags ----------------------------------------------------------------------------


def lookup_tags(
    train: Iterable[tuple[Sequence[str], Sequence[str]]], asked: Iterable[Sequence[str]]
) -> list[list[str]]:
    """The commonest tag of each word; of one that training has not, the commonest."""
    counts: dict[str, collections.Counter[str]] = {}
    total: collections.Counter[str] = collections.Counter()
    for sentence, tags in train:
        total.update(tags)
        for word, tag in zip(sentence, tags, strict=True):
            counts.setdefault(word, collections.Counter())[tag] += 1
    (other, _), *_ = total.most_common(1)
    best = {word: own.most_common(1)[0][0] for word, own in counts.items()}
    return [[best.get(word, other) for word in sentence] for sentence in asked]


# --- answers -------------------------------------------------------------------------

LONGEST = 5  # words of an answer


def sliding_window(question: str, context: str) -> str:
    """The answer whose surroundings share most with the question.

    Richardson et al. 2013's sliding window, without their given answers: candidates are
    the runs of up to `LONGEST` words of a sentence that the question does not have,
    and that neither begin nor end with a stop word. A window as long as the question,
    around a candidate, scores the sum of log(1 + 1 / count) of its words that are the
    question's, counted in the context; of equal ones the longest wins.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    asked = set(words(question))
    places = [m.span() for m in _WORD.finditer(context)]
    there = [context[a:b].lower() for a, b in places]
    counts = collections.Counter(there)
    weight = np.array([math.log1p(1 / counts[w]) if w in asked else 0.0 for w in there])
    sums = np.append(0, np.cumsum(weight))
    free = [w.isalnum() and w not in asked for w in there]
    edge = [
        ok and w not in ENGLISH_STOP_WORDS for ok, w in zip(free, there, strict=True)
    ]
    best, answer = (-1.0, 0), ""
    half = len(words(question)) // 2
    for first in range(len(there)):
        if not edge[first]:
            continue
        for last in range(first, min(first + LONGEST, len(there))):
            if not free[last]:
                break
            if edge[last]:
                low, high = max(0, first - half), min(len(there), last + 1 + half)
                score = float(sums[high] - sums[low]), last - first
                if score > best:
                    best = score
                    answer = context[places[first][0] : places[last][1]]
    return answer


# --- documents -----------------------------------------------------------------------


def bm25(
    documents: Sequence[str], queries: Sequence[str], k1: float = 1.5, b: float = 0.75
) -> np.ndarray:
    """Okapi BM25 with Lucene's idf (Robertson & Zaragoza 2009), float32 [Q, N].

    As bm25s computes it with method "lucene" (a test holds it against its numbers);
    words are scikit-learn's, without its English stop words.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counting = CountVectorizer(stop_words="english")
    counts = sparse.csr_matrix(counting.fit_transform(documents), dtype=np.float64)
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    holders = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.log1p((len(documents) - holders + 0.5) / (holders + 0.5))
    saturation = k1 * (1 - b + b * lengths / lengths.mean())
    rows = np.repeat(np.arange(len(documents)), np.diff(counts.indptr))
    counts.data = idf[counts.indices] * counts.data / (counts.data + saturation[rows])
    asked = (sparse.csr_matrix(counting.transform(queries)) > 0).astype(np.float64)
    return np.asarray((asked @ counts.T).todense(), np.float32)


def tfidf_cosines(texts: Sequence[str], others: Sequence[Sequence[str]]) -> list[Any]:
    """The cosines of each text and its own others, by TF-IDF of words over all."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    vectorizer.fit([*texts, *(o for some in others for o in some)])
    own = vectorizer.transform(texts)
    return [
        np.asarray((own[k] @ vectorizer.transform(some).T).todense()).ravel()
        for k, some in enumerate(others)
    ]


# --- texts ---------------------------------------------------------------------------


def first_sentence(text: str) -> str:
    """A text up to the first end of a sentence."""
    found = re.search(r"(?<=[a-z)\]\"'”])[.!?](?=\s|$)", text)
    return text[: found.end()] if found else text


def unigram_nats(train: Iterable[Sequence[int] | np.ndarray], size: int) -> np.ndarray:
    """Nats of each token by its frequency, one more of each: float64 [size]."""
    counts = np.ones(size)
    for ids in train:
        np.add.at(counts, np.asarray(ids), 1)
    return np.asarray(-np.log(counts / counts.sum()))
