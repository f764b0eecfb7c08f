"""How many texts of a split are of each class, and weights that make up for it."""

from collections.abc import Sequence

import numpy as np

from llmjax.data.store.corpus import Corpus
from llmjax.tasks.labelled.problems.problem import Problem
from llmjax.tasks.labelled.text_documents import has_records, labelled_documents


def counts_of(
    problem: Problem, corpora: Sequence[Corpus], split: str
) -> tuple[np.ndarray, int]:
    """Texts of each class, int64 [C], and how many texts have a label."""
    C = problem.config.num_classes
    counts_C, texts = np.zeros(C, np.int64), 0
    for corpus in corpora:
        if has_records(corpus):
            labels = problem.read(corpus.records(split), split)
        else:
            labels = labelled_documents(problem.config, corpus, split).labels
        if labels.ndim > 1:
            counts_C += labels.sum(0)
            texts += len(labels)
        else:
            counts_C += np.bincount(labels[labels >= 0], minlength=C)
            texts += int((labels >= 0).sum())
    return counts_C, texts


def balanced(
    problem: Problem, corpora: Sequence[Corpus], split: str
) -> tuple[float, ...]:
    """Weights of classes by how seldom they are; see `config.BalancedWeights`.

    Raises:
      ValueError: a class that no text is of.
    """
    counts_C, texts = counts_of(problem, corpora, split)
    for name, count in zip(problem.names, counts_C.tolist(), strict=True):
        if not count:
            raise ValueError(
                f"no text of the split {split!r} is of the class {name!r}, so that "
                "task.problem.weights.kind='balanced' gives it no weight; add one, "
                "take it out of the data, or give kind='given' with values"
            )
    weights_C = problem.balanced(counts_C, texts)
    return tuple(round(float(w), 6) for w in weights_C)
