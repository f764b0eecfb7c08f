"""Any number of classes of a text at once."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import FieldType, Labels, wording
from llmjax.data.batches.streams import Feature
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.store.records import RecordSource
from llmjax.tasks.labelled.confusion import LONGEST, aligned
from llmjax.tasks.labelled.problems import losses
from llmjax.tasks.labelled.problems.problem import Classified, Problem, mean
from llmjax.tasks.labelled.problems.ranking import ranking_precision
from llmjax.tasks.losses import binary_divergence
from llmjax.tasks.task import Metrics, Predictions


@dataclasses.dataclass(frozen=True)
class MultiLabelProblem(Problem):
    """A sigmoid for each class."""

    terms = ("label_smoothing",)
    answer_columns = ("labels", "label", "probability", "probabilities")
    kinds = (Labels,)

    def balanced(self, counts_C: np.ndarray, texts: int) -> np.ndarray:
        # of a class that all texts have, the weight is of no matter
        return np.maximum(texts - counts_C, 1) / counts_C

    @property
    def _threshold(self) -> float:
        problem: Any = self.config.problem
        return problem.threshold

    # --- labels ----------------------------------------------------------------------

    @classmethod
    def field(cls, config: Classified) -> FieldType:
        problem: Any = config.problem
        if problem.columns:
            return Labels(problem.columns)
        return Labels(separator=problem.separator, classes=config.labels)

    @classmethod
    def record_classes(
        cls, config: Classified, schema: RecordSchema, records: RecordSource
    ) -> tuple[str, ...]:
        kind = schema.fields.get(config.label_field)
        if not isinstance(kind, Labels):
            return ()
        if not kind.classes:
            raise ValueError(
                f"no record has a class in {config.label_field!r}; fill it, or name "
                "another column in data.prepare.label or task.problem.columns"
            )
        return kind.classes

    def read(self, records: RecordSource, split: str) -> np.ndarray:
        kind: Any = records.schema.fields[self.config.label_field]
        own = self.config.labels or kind.classes
        sets_NC = records.label_sets(self.config.label_field)
        places = {name: k for k, name in enumerate(own)}
        out_NC = np.zeros((len(records), len(own)), bool)
        for k, name in enumerate(kind.classes):
            if name in places:
                out_NC[:, places[name]] = sets_NC[:, k]
            elif sets_NC[:, k].any():
                raise ValueError(
                    f"record {int(sets_NC[:, k].argmax())} of the split {split!r} has "
                    f"the class {name!r}, and task.labels names {', '.join(own)}; add "
                    "it there, or leave task.labels out"
                )
        return out_NC

    def feature(self, label: Any) -> np.ndarray:
        return np.asarray(label, np.float32)

    @property
    def declared(self) -> Mapping[str, Feature]:
        shape = (self.config.num_classes,)
        return {"label": Feature("segment", shape=shape, dtype=np.float32)}

    def some_labels(self, count: int) -> np.ndarray:
        places = np.arange(count * self.config.num_classes)
        return places.reshape(count, -1) % 2 > 0

    # --- loss and predictions --------------------------------------------------------

    def score(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss` in nats per class and text; `subset_accuracy`, the share of
        texts with exactly the right classes; `micro_f1`, over all classes of texts."""
        problem: Any = self.config.problem
        nll = losses.multi_label(logits, label)
        minimised = losses.multi_label(
            logits,
            label,
            self.weights(),
            problem.focal_gamma,
            self.loss.label_smoothing,
        )
        chosen = nn.sigmoid(logits) >= self._threshold
        right, there = chosen == (label > 0.5), valid[..., None]
        both = jnp.sum((chosen * (label > 0.5)) * there)
        either = jnp.sum((chosen + 1.0 * (label > 0.5)) * there)
        metrics = {
            "loss": mean(nll, valid),
            "subset_accuracy": mean(jnp.all(right, axis=-1), valid),
            "micro_f1": (2 * both, either),
        }
        return *mean(minimised, valid), metrics

    def divergence(self, logits: jax.Array, others: jax.Array) -> jax.Array:
        return jnp.mean(binary_divergence(logits, others), axis=-1)

    def predict(self, logits: jax.Array) -> Any:
        """Each class's probability."""
        return nn.sigmoid(logits)

    def decode(self, values: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        """The classes from the threshold on, the likeliest one, and all
        probabilities."""
        rows = [dict(zip(names, map(float, p_C), strict=True)) for p_C in values]
        return [
            {
                "labels": [name for name, p in row.items() if p >= self._threshold],
                "label": (likeliest := max(row, key=row.__getitem__)),
                "probability": row[likeliest],
                "probabilities": row,
            }
            for row in rows
        ]

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        return answer["labels"] or ["none"]

    # --- report ----------------------------------------------------------------------

    def report(self, predictions: Iterable[Predictions]) -> dict[str, Any]:
        """F1 of all classes together (micro) and their mean (macro), the share of texts
        that have exactly the right ones, ranking precision, and a table by class.

        As scikit-learn has them, 0 where a class is neither right nor predicted.
        """
        C = self.config.num_classes
        both_C, right_C, chosen_C = (np.zeros(C, np.int64) for _ in range(3))
        texts, whole, precision = 0, 0, 0.0
        for part in predictions:
            right_NC = part.labels["label"] > 0.5
            chosen_NC = part.values >= self._threshold
            both_C += (right_NC & chosen_NC).sum(0)
            right_C += right_NC.sum(0)
            chosen_C += chosen_NC.sum(0)
            texts += len(right_NC)
            whole += int((right_NC == chosen_NC).all(1).sum())
            precision += float(ranking_precision(right_NC, part.values).sum())
        f1_C = _share(2 * both_C, right_C + chosen_C)
        columns = {
            "precision": _share(both_C, chosen_C),
            "recall": _share(both_C, right_C),
            "f1": f1_C,
        }
        total = 2 * both_C.sum(), (right_C + chosen_C).sum()
        return {
            "micro_f1": float(_share(*map(np.asarray, total))),
            "macro_f1": float(f1_C.mean()),
            "subset_accuracy": whole / max(texts, 1),
            "ranking_precision": precision / max(texts, 1),
            "texts": texts,
            "classes": {
                name: {k: float(column[c]) for k, column in columns.items()}
                | {"texts": int(right_C[c])}
                for c, name in enumerate(self.names)
            },
        }

    def describe(self, report: Mapping[str, Any]) -> str:
        """The metrics in a line, and a row for each class."""
        line = (
            f"micro-F1 {report['micro_f1']:.3f}, macro-F1 {report['macro_f1']:.3f}, "
            f"all classes right {report['subset_accuracy']:.3f}, ranking precision "
            f"{report['ranking_precision']:.3f} on "
            f"{wording.count(report['texts'], 'text')}"
        )
        rows = [["class", "texts", "precision", "recall", "F1"]]
        for name, row in report["classes"].items():
            short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            shares = [f"{row[k]:.3f}" for k in ("precision", "recall", "f1")]
            rows.append([short, str(row["texts"]), *shares])
        return "\n".join([line, *aligned(rows)])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where there is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
