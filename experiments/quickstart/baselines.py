"""Baselines without a network: compressors and classifiers."""

import lzma
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llmjax.data.store.tokens import TokenSource
from llmjax.tasks.labelled.confusion import (
    classification_report,
    confusion,
)

Labels = Sequence[int] | np.ndarray

_XZ_9E = lzma.PRESET_EXTREME | 9


def xz_bits_per_byte(
    train_texts: Iterable[str], held_out_texts: Iterable[str]
) -> dict[str, float]:
    """Bits per byte of the held-out texts, joined by newlines, under `xz -9e`.

    Returns:
      xz: the held-out texts alone.
      xz_given_train: the bits that they add to a file that begins with all training
        texts, with a dictionary that reaches back to its first byte.
    """
    held_out = "\n".join(held_out_texts).encode()
    train = ("\n".join(train_texts) + "\n").encode()
    # lzma releases the interpreter's lock, so each compression has a core.
    with ThreadPoolExecutor(2) as pool:
        both, before = pool.map(_xz_size, (train + held_out, train))
    per_byte = 8 / len(held_out)
    return {
        "xz": _xz_size(held_out) * per_byte,
        "xz_given_train": (both - before) * per_byte,
    }


def _xz_size(data: bytes) -> int:
    """Bytes of the file of `xz -9e`, with a dictionary (64 MiB in the preset) that
    reaches all of it."""
    dictionary = max(len(data), 64 * 2**20)
    xz = {"id": lzma.FILTER_LZMA2, "preset": _XZ_9E, "dict_size": dictionary}
    return len(lzma.compress(data, filters=[xz]))


def unigram_bits_per_byte(
    train: TokenSource, held_out: TokenSource, vocab_size: int
) -> float:
    """Bits per byte of a model that knows only how frequent each token is.

    The counts are those of `train`, plus one each (Laplace). An end follows every
    document, as for the language model: one more symbol beside the `vocab_size`, which
    costs bits and stands for no byte.
    """
    counts = _counts(train, vocab_size) + 1
    nats = _counts(held_out, vocab_size) @ -np.log(counts / counts.sum())
    return float(nats / np.log(2) / held_out.num_bytes)


def _counts(source: TokenSource, vocab_size: int) -> np.ndarray:
    """How often each token occurs and, last, how often a document ends: [V + 1]."""
    tokens = np.concatenate([source[i]["tokens"] for i in range(len(source))])
    return np.append(np.bincount(tokens, minlength=vocab_size), len(source))


def majority(labels_train: Labels, labels_test: Labels) -> dict[str, float]:
    """Accuracy and macro-F1 of predicting the most frequent training class."""
    most_frequent = np.bincount(labels_train).argmax()
    return _scores(np.full(len(labels_test), most_frequent), np.asarray(labels_test))


def tfidf(
    train_texts: Iterable[str],
    train_labels: Labels,
    test_texts: Iterable[str],
    test_labels: Labels,
) -> dict[str, float]:
    """Accuracy and macro-F1 of a linear classifier over words and pairs of words.

    It takes the 50,000 most frequent ones; all of them, with lbfgs, took ten times as
    long and were no better.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=50_000
    )
    classifier = LogisticRegression(C=10.0, solver="saga", tol=1e-2, random_state=0)
    classifier.fit(words.fit_transform(train_texts), train_labels)
    predicted = classifier.predict(words.transform(test_texts))
    return _scores(predicted, np.asarray(test_labels))


def _scores(predicted: np.ndarray, right: np.ndarray) -> dict[str, float]:
    classes = int(max(predicted.max(), right.max())) + 1
    report = classification_report(confusion(predicted, right, classes))
    return {name: report[name] for name in ("accuracy", "macro_f1")}
