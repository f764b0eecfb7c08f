"""Numbers of a text: scores, ratings, similarities."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import FieldType, Number, Numbers, wording
from llmjax.data.batches.streams import Feature
from llmjax.data.store.record_schema import RecordSchema
from llmjax.data.store.records import RecordSource
from llmjax.tasks.labelled.confusion import LONGEST, aligned
from llmjax.tasks.labelled.problems.problem import Classified, Problem, mean
from llmjax.tasks.labelled.problems.ranking import correlation, ranks
from llmjax.tasks.task import Metrics, Predictions

METRICS = {"pearson": "Pearson", "spearman": "Spearman", "mse": "MSE", "mae": "MAE"}


@dataclasses.dataclass(frozen=True)
class RegressionProblem(Problem):
    """Scores that are numbers themselves."""

    answer_columns = ("value", "values")
    kinds = (Number, Numbers)

    # --- labels ----------------------------------------------------------------------

    @classmethod
    def field(cls, config: Classified) -> FieldType:
        return Numbers(config.problem.columns)  # type: ignore[union-attr]

    @classmethod
    def record_classes(
        cls, config: Classified, schema: RecordSchema, records: RecordSource
    ) -> tuple[str, ...]:
        """The columns, or the field's name, numbered where it has several numbers."""
        kind, name = schema.fields.get(config.label_field), config.label_field
        if not isinstance(kind, Number | Numbers):
            return ()
        if isinstance(kind, Numbers) and kind.columns:
            return kind.columns
        first = records[0][name] if len(records) else 0.0
        count = np.size(first)
        return (name,) if count == 1 else tuple(f"{name}_{k}" for k in range(count))

    def read(self, records: RecordSource, split: str) -> np.ndarray:
        numbers, C = records.numbers(self.config.label_field), self.config.num_classes
        for k, row in enumerate(numbers):
            if len(row) != C:
                raise ValueError(
                    f"record {k} of the split {split!r} has {len(row)} numbers in "
                    f"{self.config.label_field!r}, and the task {C} "
                    f"({', '.join(self.names)}); give each record as many"
                )
        return np.array(numbers, np.float32).reshape(-1, C)

    def feature(self, label: Any) -> np.ndarray:
        return np.asarray(label, np.float32)

    @property
    def declared(self) -> Mapping[str, Feature]:
        shape = (self.config.num_classes,)
        return {"label": Feature("segment", shape=shape, dtype=np.float32)}

    def some_labels(self, count: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        return rng.normal(size=(count, self.config.num_classes)).astype(np.float32)

    # --- loss and predictions --------------------------------------------------------

    def score(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics, the mean over the numbers of a text: `loss`, the squared error, and
        `mae`, the absolute one."""
        off = logits - label
        total, count = mean(jnp.mean(jnp.square(off), axis=-1), valid)
        mae = mean(jnp.mean(jnp.abs(off), axis=-1), valid)
        return total, count, {"loss": (total, count), "mae": mae}

    def divergence(self, logits: jax.Array, others: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(logits - others), axis=-1)

    def predict(self, logits: jax.Array) -> Any:
        """The numbers."""
        return logits

    def decode(self, values: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        """The number of each text; by name where there are several."""
        if len(names) == 1:
            return [{"value": float(x)} for (x,) in values]
        rows = (dict(zip(names, map(float, x_C), strict=True)) for x_C in values)
        return [{"values": row} for row in rows]

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        return []

    # --- report ----------------------------------------------------------------------

    def report(self, predictions: Iterable[Predictions]) -> dict[str, Any]:
        """Correlations (Pearson's, Spearman's), squared and absolute error; of several
        numbers their means, and each by name.

        A correlation is 0 where all numbers are the same. Numbers of all texts are
        held, two float32 each, as ranks need them.
        """
        parts = [(part.values, part.labels["label"]) for part in predictions]
        own_NC, right_NC = (np.concatenate(x) for x in zip(*parts, strict=True))
        by_name = {
            name: _metrics(own_NC[:, c], right_NC[:, c])
            for c, name in enumerate(self.names)
        }
        means = {k: float(np.mean([m[k] for m in by_name.values()])) for k in METRICS}
        several = {"numbers": by_name} if len(by_name) > 1 else {}
        return {**means, "texts": len(own_NC), **several}

    def describe(self, report: Mapping[str, Any]) -> str:
        """The metrics in a line, and where there are several numbers a row for each."""
        parts = [f"{words} {report[k]:.4g}" for k, words in METRICS.items()]
        line = f"{', '.join(parts)} on {wording.count(report['texts'], 'text')}"
        rows = [["number", *METRICS.values()]]
        for name, row in report.get("numbers", {}).items():
            short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            rows.append([short, *(f"{row[k]:.4g}" for k in METRICS)])
        return "\n".join([line, *(aligned(rows) if len(rows) > 1 else [])])


def _metrics(own_N: np.ndarray, right_N: np.ndarray) -> dict[str, float]:
    off_N = own_N.astype(np.float64) - right_N
    return {
        "pearson": correlation(own_N, right_N),
        "spearman": correlation(ranks(own_N), ranks(right_N)),
        "mse": float(np.mean(off_N**2)),
        "mae": float(np.mean(np.abs(off_N))),
    }
