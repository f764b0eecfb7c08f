"""Sentence order prediction beside masked language modelling."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.tasks.objectives.next_sentence import SentencePairTask
from llmjax.tasks.objectives.sentences import first_sentences


class SentenceOrderTask(SentencePairTask):
    """ALBERT's (Lan et al. 2020, arXiv:1909.11942, 3.1).

    A and B are consecutive segments of a group, cut at random between sentences; a
    share `swapped` of the pairs has B first, as google-research/albert's
    create_pretraining_data.py makes them without `random_next_sentence`.
    """

    def segments(
        self, example: Mapping[str, Any], goal: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        tokens, sizes = first_sentences(example, goal)
        cut = int(sizes[: rng.integers(1, len(sizes))].sum())
        if rng.random() < self.config.swapped:
            return tokens[cut:], tokens[:cut], False
        return tokens[:cut], tokens[cut:], True
