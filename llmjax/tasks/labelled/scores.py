"""Predictions of classifiers whose scores are not of one class of several."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn

from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.tasks.labelled.sequence_classification import SequenceClassificationTask
from llmjax.tasks.task import Batch, Objective, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class ScoresTask(SequenceClassificationTask):
    """A score for each label of a text by itself; it predicts, and trains nothing.

    Attributes:
      meaning: a score is the logit of a label's probability, or a number.
    """

    answer_columns = (*Objective.answer_columns, "value", "values")
    meaning: Literal["logits", "numbers"] = "logits"  # type: ignore[misc]

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """Each label's probability, or each number: float32 [B, C] or [B, G, C]."""

        def predict(variables, batch):
            logits, _ = forward(model, variables, batch)
            return nn.sigmoid(logits) if self.meaning == "logits" else logits

        return predict

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """Every label's probability and the likeliest label; or numbers, by name where
        there are several."""
        names = self.config.labels
        rows = [dict(zip(names, map(float, x_C), strict=True)) for x_C in values]
        if self.meaning == "numbers":
            if len(names) == 1:
                return [{"value": row[names[0]]} for row in rows]
            return [{"values": row} for row in rows]
        return [
            {
                "label": (likeliest := max(row, key=row.__getitem__)),
                "probability": row[likeliest],
                "probabilities": row,
            }
            for row in rows
        ]
