"""The protocol of a problem: all of sequence classification that depends on it."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    FieldType,
    LossConfig,
    RelationExtraction,
    SequenceClassification,
)
from llmjax.data.batches.streams import Feature
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.store.records import RecordSource
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.task import Metrics, Predictions

Classified = SequenceClassification | RelationExtraction  # configs with a problem


@dataclasses.dataclass(frozen=True)
class Problem(abc.ABC):
    """What the scores of texts mean.

    Attributes:
      config: of the task.
      loss: terms of `config.loss`.
      terms: those of its terms that are read.
      head: the class of the model.
      answer_columns: that predictions may have.
      kinds: types of the records' fields that labels are read from.
    """

    config: Classified
    loss: LossConfig

    terms: ClassVar[tuple[str, ...]] = ()
    head: ClassVar[type[nn.Module]] = SequenceClassifier
    answer_columns: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[Any, ...]] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes or numbers, numbered where there are none."""
        return self.config.labels or tuple(map(str, range(self.config.num_classes)))

    def weights(self) -> tuple[float, ...]:
        """Weights of the classes in the loss; (): 1 each."""
        problem: Any = self.config.problem
        return getattr(problem.weights, "values", ())

    def balanced(self, counts_C: np.ndarray, texts: int) -> np.ndarray:
        """Weights by how many of the texts are of each class; see
        `config.BalancedWeights`."""
        return texts / (len(counts_C) * counts_C)

    # --- labels ----------------------------------------------------------------------

    @classmethod
    @abc.abstractmethod
    def field(cls, config: Classified) -> FieldType:
        """The type of the records' field that has the labels."""

    @classmethod
    @abc.abstractmethod
    def record_classes(
        cls, config: Classified, schema: RecordSchema, records: RecordSource
    ) -> tuple[str, ...]:
        """The names of the classes or numbers of records; (): the field is another.

        Args:
          config: of the task.
          schema: of the records.
          records: of the split that is learned from.
        """

    @abc.abstractmethod
    def read(self, records: RecordSource, split: str) -> np.ndarray:
        """The label of each record, [N] or [N, C]; -1 in the first: none.

        Raises:
          ValueError: a label that is none of the task's; it names the record.
        """

    def report_left_out(self, known_N: np.ndarray, split: str) -> None:  # noqa: B027
        """Says on standard error how many records have no label."""

    @abc.abstractmethod
    def feature(self, label: Any) -> np.ndarray:
        """A label as it lies in a batch."""

    @property
    def declared(self) -> Mapping[str, Feature]:
        """The feature, where a text has several values."""
        return {}

    @abc.abstractmethod
    def some_labels(self, count: int) -> np.ndarray:
        """Labels of random text."""

    # --- loss and predictions --------------------------------------------------------

    @abc.abstractmethod
    def score(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """The sum to minimise, its count, and metrics; of texts whose `valid` is 1."""

    @abc.abstractmethod
    def divergence(self, logits: jax.Array, others: jax.Array) -> jax.Array:
        """How far each text's scores are apart; see `Objective.divergence`."""

    @abc.abstractmethod
    def predict(self, logits: jax.Array) -> Any:
        """Predictions, a tree of arrays."""

    @abc.abstractmethod
    def decode(self, values: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        """Predictions by name."""

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """What is counted of an answer."""
        return [str(answer["label"])]

    # --- report ----------------------------------------------------------------------

    @abc.abstractmethod
    def report(self, predictions: Iterable[Predictions]) -> dict[str, Any]:
        """Metrics of a whole split."""

    @abc.abstractmethod
    def describe(self, report: Mapping[str, Any]) -> str:
        """A report for people."""


def mean(values: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of a metric of each text."""
    return jnp.sum(values * valid), jnp.sum(valid)
