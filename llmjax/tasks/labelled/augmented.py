"""Features of texts that are changed a little, as `data.augment` says."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.config import SequenceClassification
from llmjax.data.augment.words import Augmenter
from llmjax.tasks.labelled.text_source import cut
from llmjax.tasks.task import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Augmented:
    """`task.features` of a text that may be another one each epoch; picklable.

    The change is a function of the generator alone, which is one of (seed, epoch,
    example): the same in every repetition of a run.

    Attributes:
      task: of texts with a label each.
      augmenter: of `data.augment`.
    """

    task: Any
    augmenter: Augmenter

    def __call__(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        if rng.random() < self.augmenter.config.share:
            example = self._changed(example, rng)
        features: dict[str, np.ndarray] = self.task.features(example, rng)
        return features

    def _changed(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> Mapping[str, Any]:
        """An example whose texts are changed and cut again to a row's length."""
        vocabulary = self.task.vocabulary
        texts = example["texts"] if "texts" in example else (example["tokens"],)
        new = []
        for ids in texts:
            changed = vocabulary.encode(self.augmenter(vocabulary.decode(ids), rng))
            new.append(changed if len(changed) else ids)
        parts = cut(tuple(new), self.task.text_length, vocabulary.truncation_side)
        fields = {"texts": parts} if "texts" in example else {"tokens": parts[0]}
        return {**example, **fields}


def features(task: Task) -> Any:
    """The host function of a task in training: `task.features`, or `Augmented`.

    Raises:
      ValueError: `data.augment` does not go with the task or with its rows.
      FileNotFoundError: WordNet is not in its folder.
    """
    run = getattr(task, "run", None)
    if run is None or not run.data.augment.rates:
        return task.features
    kind, packing = run.task.kind, run.data.packing
    if not isinstance(run.task, SequenceClassification):
        raise ValueError(
            "data.augment changes texts that have a label each, and the labels of task "
            f"{kind!r} lie at places of a text, or it has none; set its rates to 0"
        )
    if packing != "pad":
        raise ValueError(
            f"data.augment changes the length of texts, and data.packing={packing!r} "
            "fits them into rows by their length; set data.packing='pad', or the rates "
            "of data.augment to 0"
        )
    return Augmented(task, Augmenter.of(run.data.augment))
