"""Sequence classification: classes or numbers of a text, or of a pair of texts."""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax import config as cfg_lib
from llmjax.config import (
    BalancedWeights,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    SequenceClassification,
)
from llmjax.data.batches.chunks import Clipped
from llmjax.data.batches.pipeline import Source
from llmjax.data.batches.streams import Feature
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.labelled import pairs
from llmjax.tasks.labelled.class_counts import balanced, counts_of
from llmjax.tasks.labelled.labelled import LabelledTask, Way
from llmjax.tasks.labelled.problems.multi_label import MultiLabelProblem
from llmjax.tasks.labelled.problems.problem import Problem
from llmjax.tasks.labelled.problems.regression import RegressionProblem
from llmjax.tasks.labelled.problems.single_label import (
    OrdinalProblem,
    SingleLabelProblem,
)
from llmjax.tasks.labelled.text_documents import has_records, labelled_documents
from llmjax.tasks.labelled.text_source import FieldTexts, LabelledTexts, ListedTexts
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import (
    Batch,
    Metrics,
    Outputs,
    Predictions,
    Variables,
)

PROBLEMS: dict[type, type[Problem]] = {
    cfg_lib.SingleLabel: SingleLabelProblem,
    cfg_lib.MultiLabel: MultiLabelProblem,
    cfg_lib.Regression: RegressionProblem,
    cfg_lib.Ordinal: OrdinalProblem,
}
BY_NAME: dict[str | None, Any] = {kind.kind: kind for kind in PROBLEMS}  # type: ignore[attr-defined]
PAIR = "text_pair"  # name of the second text
_FIELDS = ("text", "pair", "label")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceClassificationTask(LabelledTask):
    """Classes or numbers of each text, by `task.problem`.

    A text is cut at `data.seq_len` where its tokenizer does; with `task.pair_field` a
    row has two, with the tokenizer's specials for a pair, and the longer one is cut
    first. With packing "pad" they have a row, and labels are [B, ...]; with "first_fit"
    several share one, and labels are [B, G, ...].
    """

    architectures: ClassVar[tuple[str, ...]] = ("decoder", "encoder")
    packings: ClassVar[tuple[str, ...]] = ("pad", "first_fit")
    labels = ("label",)
    head: ClassVar[type[nn.Module]] = SequenceClassifier
    diverges = True

    # --- the config ------------------------------------------------------------------

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        kind = PROBLEMS[type(task.problem)]
        if issubclass(kind, SingleLabelProblem) and not task.pair_field:
            return columns.with_columns(data, said=said)
        names = task.text_field, task.pair_field, task.label_field
        return columns.with_texts(data, *names, kind.field(task), said=said)

    @classmethod
    def classes(cls, task: Any, corpora: Sequence[Corpus]) -> tuple[str, ...]:
        kind = PROBLEMS[type(task.problem)]
        names: dict[str, None] = {}
        for corpus in corpora:
            own = corpus.class_names
            if has_records(corpus):
                split = next(iter(corpus.manifest["dataset"]["documents"]))
                records = corpus.records(split)
                own = kind.record_classes(task, corpus.schema, records)
            names |= dict.fromkeys(own)
        if task.ordered and not task.labels:
            return _in_order([*names])
        return tuple(names)

    @classmethod
    def with_counts(cls, task: Any, corpora: Sequence[Corpus], split: str) -> Any:
        weights = getattr(task.problem, "weights", None)
        if not isinstance(weights, BalancedWeights) or weights.values or not corpora:
            return task
        problem = PROBLEMS[type(task.problem)](task, cfg_lib.LossConfig())
        values = balanced(problem, corpora, split)
        return _with_weights(task, BalancedWeights(values))

    @classmethod
    def as_before(cls, task: Any, before: Any) -> Any:
        task = super().as_before(task, before)
        own, old = (getattr(t.problem, "weights", None) for t in (task, before))
        if isinstance(own, BalancedWeights) and isinstance(old, BalancedWeights):
            return _with_weights(task, old)
        return task

    @classmethod
    def way(cls, task: Any) -> Way:
        return task.pooling_or_mean, task.form

    @classmethod
    def with_way(cls, task: Any, way: Way) -> Any:
        if task.pooling or task.head:
            return task
        pooling, form = way
        return dataclasses.replace(task, pooling=pooling, head=form)

    @classmethod
    def of_model(cls, model: Any) -> SequenceClassification:
        """See `Objective.of_model`; one score that is no number is of a class's
        presence, as in transformers' pipeline."""
        kind = BY_NAME.get(model.problem, cfg_lib.MultiLabel)
        if kind is cfg_lib.SingleLabel and len(model.labels) == 1:
            kind = cfg_lib.MultiLabel
        return SequenceClassification(
            None, model.labels, model.pooling, model.form, problem=kind()
        )

    @classmethod
    def of_pairs(cls, task: Any) -> SequenceClassification:
        return dataclasses.replace(task, pair_field=PAIR)

    @classmethod
    def unseen(cls, task: Any, corpora: Sequence[Corpus], split: str) -> list[str]:
        problem = PROBLEMS[type(task.problem)](task, cfg_lib.LossConfig())
        if isinstance(problem, RegressionProblem) or not corpora or not task.labels:
            return []
        counts_C, _ = counts_of(problem, corpora, split)
        return [n for n, k in zip(task.labels, counts_C, strict=True) if not k]

    @functools.cached_property
    def problem(self) -> Problem:
        """What the scores mean."""
        return PROBLEMS[type(self.config.problem)](self.config, self.run.loss)

    @property
    def _paired(self) -> bool:
        return bool(self.config.pair_field)

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("text", PAIR) if self._paired else ("text",)

    @property
    def answer_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.problem.answer_columns

    @property
    def declared(self) -> Mapping[str, Feature]:  # type: ignore[override]
        return self.problem.declared

    @property
    def num_outputs(self) -> int:
        return 1 if self.config.ordered else self.config.num_classes

    def check(self) -> None:
        """Raises ValueError for a term of the loss that the problem has not, weights
        that were never counted, or a pair without room."""
        for name, value in dataclasses.asdict(self.run.loss).items():
            if value and name not in self.problem.terms:
                raise ValueError(
                    f"loss.{name}={value} is no term of the loss of task.problem.kind="
                    f"{self.config.problem.kind!r}; set it to 0"
                )
        weights = getattr(self.config.problem, "weights", None)
        if isinstance(weights, BalancedWeights) and not weights.values:
            raise ValueError(
                "task.problem.weights.kind='balanced' has no values, which are counted "
                "in the training split where task.labels names its classes; leave "
                "task.num_labels out, or give kind='given' with values"
            )
        if self._paired:
            pairs.check_pairs(self)

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The texts that have a label.

        Raises:
          ValueError: the corpus has no such fields, or labels that the task has not.
        """
        if has_records(corpus):
            return self._of_records(corpus, split)
        self._check_documents(corpus)
        return labelled_documents(self.config, corpus, split)

    def _check_documents(self, corpus: Corpus) -> None:
        """Raises ValueError for documents where records are needed."""
        kind = self.config.problem.kind
        if self._paired or not isinstance(self.problem, SingleLabelProblem):
            what = "pairs of texts" if self._paired else f"task.problem.kind={kind!r}"
            raise ValueError(
                f"the corpus {corpus.manifest['corpus']} has documents, and {what} "
                "needs records; name their fields in data.prepare.fields and prepare "
                "it again"
            )

    def _of_records(self, corpus: Corpus, split: str) -> LabelledTexts:
        every = {name: getattr(self.config, f"{name}_field") for name in _FIELDS}
        names = {field: name for name, field in every.items() if field}
        text = (cfg_lib.Text,)
        kinds = {
            f: self.problem.kinds if k == "label" else text for f, k in names.items()
        }
        pairs.require_kinds(corpus, kinds, names)
        records = corpus.records(split)
        label_N = self.problem.read(records, split)
        known = label_N >= 0 if label_N.ndim == 1 else np.ones(len(label_N), bool)
        places = np.flatnonzero(known)
        self.problem.report_left_out(known, split)
        fields = tuple(field for field, name in names.items() if name != "label")
        texts = FieldTexts(records, fields, places)
        return self._texts(texts, texts.sizes, label_N[places])

    def _texts(self, read: Any, sizes: np.ndarray, labels: np.ndarray) -> LabelledTexts:
        side = self.vocabulary.truncation_side
        return LabelledTexts(read, sizes, labels, self.text_length, side)

    def examples(self, documents: Any) -> Source:
        if isinstance(documents, LabelledTexts):
            return documents
        return Clipped(documents, self.text_length, self.vocabulary.truncation_side)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` with the tokenizer's specials around, of a pair `token_types` where
        the model has them, and `label`, as the problem has it."""
        texts = example["texts"] if "texts" in example else (example["tokens"],)
        features = {"label": self.problem.feature(example["label"])}
        if not self._paired:
            (text,) = texts
            tokens = self.vocabulary.with_specials(text.astype(np.int32))
            return {"tokens": tokens, **features}
        tokens, types = self.vocabulary.pair_with_specials(*texts)
        if self.run.model.token_types:
            features = {"token_types": types, **features}
        return {"tokens": tokens, **features}

    def length(self, num_tokens: int) -> int:
        if self._paired:
            return num_tokens + pairs.specials_of(self)
        return num_tokens + self.vocabulary.num_specials

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        rng, n = np.random.default_rng(0), self.text_length
        parts = (n - n // 2, n // 2) if self._paired else (n,)
        texts = [
            tuple(
                rng.integers(3, self.vocabulary.vocab_size, k).astype(np.int32)
                for k in parts
            )
            for _ in range(rows)
        ]
        read = ListedTexts(texts)
        source = self._texts(read, read.sizes, self.problem.some_labels(rows))
        return pairs.full_batch(self, source, rows)

    # --- model, loss and predictions -------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        config, head = self.config, self.problem.head
        return head(
            cfg,
            config.num_classes,
            config.pooling_or_mean,
            layout,
            config.form,
            labels=config.labels,
            problem=config.problem.kind,
        )

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model)

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics of each text; see the problem's `score`."""
        logits, label = outputs.head, batch["label"]
        valid = batch.get("valid", jnp.ones(logits.shape[:-1])).astype(jnp.float32)
        total, count, metrics = self.problem.score(logits, label, valid)
        return with_routing(outputs, total, count, metrics)

    def divergence(self, outputs: Routed, others: Routed, batch: Batch) -> jax.Array:
        apart = self.problem.divergence(outputs.head, others.head)
        return jnp.sum(apart * batch.get("valid", jnp.ones(apart.shape)))

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """Predictions of each text, with axes [B, ...] or [B, G, ...]; see the
        problem's `predict`."""

        def predict(variables, batch):
            logits, _ = forward(model, variables, batch)
            return self.problem.predict(logits)

        return predict

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        if not self._paired and not self.run.data.prepare.fields:
            return super().input_columns(there)
        names = self.config.text_field, self.config.pair_field
        texts = zip(("text", PAIR), names, strict=True)
        fields = {name: field for name, field in texts if field}
        return pairs.learned_columns(self, fields, there)

    def questions(self, rows: Sequence[Mapping[str, str]]) -> Any:
        vocabulary: Any = self.vocabulary
        each = [vocabulary.encode_batch([r[k] for r in rows]) for k in self.inputs]
        read = ListedTexts([*zip(*each, strict=True)])
        return self._texts(read, read.sizes, self.problem.some_labels(len(rows)))

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        names = self.config.labels or (corpus.class_names if corpus else ())
        return self.problem.decode(values, names or self.problem.names)

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        return self.problem.counted(answer)

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """Metrics of a whole split; see the problem's `report`."""
        return self.problem.report(predictions)

    def describe(self, report: Mapping[str, Any]) -> str:
        return self.problem.describe(report)


def _with_weights(task: SequenceClassification, weights: BalancedWeights) -> Any:
    problem: Any = task.problem
    weighted = dataclasses.replace(problem, weights=weights)
    return dataclasses.replace(task, problem=weighted)


def _in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Classes in the order of the first number in each of their names.

    Raises:
      ValueError: one has none, or the same as another.
    """
    numbers = {n: float(m[0]) for n in names if (m := _NUMBER.search(n))}
    if len({*numbers.values()}) == len(names):
        return tuple(sorted(names, key=numbers.__getitem__))
    raise ValueError(
        f"task.problem.kind='ordinal_regression' has the classes {', '.join(names)}, "
        "whose names do not say their order by a number each; give task.labels, the "
        "lowest first"
    )
