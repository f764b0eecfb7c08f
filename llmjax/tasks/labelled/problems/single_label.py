"""One class of several: of a text by the likeliest, in an order by the median."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import FieldType, Label, wording
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.store.records import RecordSource
from llmjax.models.heads.classifier import OrdinalClassifier
from llmjax.tasks.labelled import confusion
from llmjax.tasks.labelled.problems import calibration, losses
from llmjax.tasks.labelled.problems.problem import Classified, Problem, mean
from llmjax.tasks.losses import cross_entropy, divergence
from llmjax.tasks.task import Metrics, Predictions


@dataclasses.dataclass(frozen=True)
class SingleLabelProblem(Problem):
    """A softmax over the classes."""

    terms: ClassVar[tuple[str, ...]] = ("z_loss", "label_smoothing")
    answer_columns = ("label", "probability", "probabilities")
    kinds = (Label,)

    @classmethod
    def field(cls, config: Classified) -> FieldType:
        return Label(config.labels)

    @classmethod
    def record_classes(
        cls, config: Classified, schema: RecordSchema, records: RecordSource
    ) -> tuple[str, ...]:
        kind = schema.fields.get(config.label_field)
        return kind.classes if isinstance(kind, Label) else ()

    def read(self, records: RecordSource, split: str) -> np.ndarray:
        kind: Any = records.schema.fields[self.config.label_field]
        numbers = self.numbers(kind.classes)
        own_N = records.labels(self.config.label_field)
        label_N = np.append(numbers, -1)[own_N]
        for k in np.flatnonzero((label_N < 0) & (own_N >= 0))[:1].tolist():
            raise ValueError(
                f"record {k} of the split {split!r} has the class "
                f"{kind.classes[own_N[k]]!r}, and task.labels names "
                f"{', '.join(self.names)}; add it there, or leave task.labels out"
            )
        return label_N

    def report_left_out(self, known_N: np.ndarray, split: str) -> None:
        if missing := int((~known_N).sum()):
            said = wording.count(missing, "record") + " without a label: left out"
            print(f"split {split!r}: {said}", file=sys.stderr)

    def numbers(self, classes: Sequence[str]) -> np.ndarray:
        """The task's number of each of the data's classes; -1: it is none of them."""
        own = {name: k for k, name in enumerate(self.config.labels or classes)}
        return np.array([own.get(name, -1) for name in classes], np.int64)

    def feature(self, label: Any) -> np.ndarray:
        return np.asarray(label, np.int32)

    def some_labels(self, count: int) -> np.ndarray:
        return np.arange(count) % self.config.num_classes

    def score(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss` in nats and `accuracy`, both per text."""
        terms = self.loss
        minimised, nll = cross_entropy(
            logits, label, terms.z_loss, terms.label_smoothing
        )
        gamma = getattr(self.config.problem, "focal_gamma", 0.0)
        weight, weights = valid, self.weights()
        if weights or gamma:
            minimised, own = losses.single_label(
                logits, label, weights, gamma, terms.label_smoothing
            )
            weight = own * valid
            if terms.z_loss:
                log_z = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
                minimised += terms.z_loss * own * jnp.square(log_z)
        metrics = {
            "loss": mean(nll, valid),
            "accuracy": mean(self.chosen(logits) == label, valid),
        }
        return jnp.sum(minimised * valid), jnp.sum(weight), metrics

    def divergence(self, logits: jax.Array, others: jax.Array) -> jax.Array:
        return divergence(logits, others)

    def chosen(self, logits: jax.Array) -> jax.Array:
        """The class that is predicted: the likeliest."""
        return jnp.argmax(logits, axis=-1)

    def predict(self, logits: jax.Array) -> Any:
        """`label` and the `probabilities` of all classes."""
        return {"label": self.chosen(logits), "probabilities": nn.softmax(logits)}

    def decode(self, values: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        """The name of each text's class, its probability, and those of all classes."""
        return [
            {
                "label": names[k],
                "probability": float(p_C[k]),
                "probabilities": dict(zip(names, map(float, p_C), strict=True)),
            }
            for k, p_C in zip(values["label"], values["probabilities"], strict=True)
        ]

    def report(self, predictions: Iterable[Predictions]) -> dict[str, Any]:
        """Of the confusion matrix and of how far probabilities can be trusted; see
        `confusion.classification_report` and `calibration`."""
        C = self.config.num_classes
        counts_CC, bins = np.zeros((C, C), np.int64), calibration.Bins()
        for part in predictions:
            right, chosen = part.labels["label"], part.values["label"]
            counts_CC += confusion.confusion(chosen, right, C)
            bins = bins.with_texts(part.values["probabilities"], right)
        report = self.matrix_report(counts_CC) | confusion.intervals(counts_CC)
        return report | {"calibration_error": bins.expected_error()}

    def matrix_report(self, counts_CC: np.ndarray) -> dict[str, Any]:
        """Metrics of the confusion matrix."""
        return confusion.classification_report(counts_CC, self.config.labels)

    def describe(self, report: Mapping[str, Any]) -> str:
        """Metrics with their intervals, and the confusion matrix with names."""
        matrix = confusion.table(np.array(report["confusion"]), report["labels"])
        return f"{confusion.headline(report)}\n{matrix}"


class OrdinalProblem(SingleLabelProblem):
    """Ordered classes: of a text the median is predicted, which is least far off."""

    terms = ("label_smoothing",)
    head = OrdinalClassifier

    def chosen(self, logits: jax.Array) -> jax.Array:
        """The median of the classes."""
        below = jnp.cumsum(nn.softmax(logits), axis=-1)[..., :-1]
        return jnp.sum(below < 0.5, axis=-1)

    def score(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss` in nats, `accuracy`, and `mae` in classes, all per text."""
        total, count, metrics = super().score(logits, label, valid)
        off = jnp.abs(self.chosen(logits) - label)
        return total, count, metrics | {"mae": mean(off, valid)}

    def matrix_report(self, counts_CC: np.ndarray) -> dict[str, Any]:
        """Metrics of the confusion matrix, those that know the order among them."""
        return super().matrix_report(counts_CC) | confusion.ordinal_report(counts_CC)
