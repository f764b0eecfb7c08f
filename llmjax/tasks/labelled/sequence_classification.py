"""Sequence classification: one label per text."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    ModelConfig,
    SequenceClassification,
)
from llmjax.data.batches.chunks import Clipped
from llmjax.data.batches.pipeline import Source
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.tokens import TokenSource, from_documents
from llmjax.models.forward import forward
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.labelled.confusion import classification_report, confusion, table
from llmjax.tasks.labelled.labelled import LabelledTask, Way
from llmjax.tasks.losses import cross_entropy
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import (
    Batch,
    Metrics,
    Outputs,
    Predictions,
    Variables,
)


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceClassificationTask(LabelledTask):
    """A class for each text, which is cut at `data.seq_len` where its tokenizer does.

    With packing "pad" a text has a row, and labels are [B]; with "first_fit" whole
    texts share a row, and labels are [B, G].
    """

    architectures = ("decoder", "encoder")
    packings = ("pad", "first_fit")
    labels = ("label",)
    inputs = ("text",)
    head = SequenceClassifier

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        return columns.with_columns(data, said=said)

    @classmethod
    def classes(cls, task: Any, corpora: Sequence[Corpus]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for c in corpora for name in c.class_names))

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
        return SequenceClassification(None, model.labels, model.pooling, model.form)

    @classmethod
    def unseen(cls, task: Any, corpora: Sequence[Corpus], split: str) -> list[str]:
        seen: set[str] = set()
        for corpus in corpora:
            numbers = np.unique(corpus.source(split, task.text_field).labels).tolist()
            seen |= {corpus.class_names[k] for k in numbers if k >= 0}
        return [name for name in task.labels if corpora and name not in seen]

    @property
    def num_outputs(self) -> int:
        return self.config.num_classes

    def documents(self, corpus: Corpus, split: str) -> TokenSource:
        """The documents that have a label.

        Raises:
          ValueError: the corpus has classes that the task has not, or another number
            of them where the task names none.
        """
        names, own = corpus.class_names, self.config.labels
        if not names:
            raise ValueError(
                "the corpus has no classes; name the column that holds them in "
                "data.prepare.label and prepare it again, or choose another task"
            )
        source = corpus.source(split, self.config.text_field).labelled()
        if not own:
            if self.config.num_classes != len(names):
                raise ValueError(
                    f"task.num_labels={self.config.num_classes}, and the corpus has "
                    f"{len(names)} classes ({', '.join(names)}); set it to {len(names)}"
                )
            return source
        if strangers := [name for name in names if name not in own]:
            raise ValueError(
                f"the corpus has the class {strangers[0]!r}, and task.labels names "
                f"{', '.join(own)}; add it there, or leave task.labels out"
            )
        if names == own:
            return source
        return source.numbered([own.index(name) for name in names])

    def examples(self, documents: TokenSource) -> Source:
        side = self.vocabulary.truncation_side
        return Clipped(documents, self.text_length, side)

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` with the tokenizer's specials around, and the scalar `label`."""
        text = example["tokens"].astype(np.int32)
        return {
            "tokens": self.vocabulary.with_specials(text),
            "label": np.asarray(example["label"], np.int32),
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + self.vocabulary.num_specials

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        config = self.config
        return SequenceClassifier(
            cfg,
            config.num_classes,
            config.pooling_or_mean,
            layout,
            config.form,
            labels=config.labels,
        )

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model)

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss` in nats and `accuracy`, both per text."""
        logits, label, loss = outputs.head, batch["label"], self.run.loss
        minimised, nll = cross_entropy(logits, label, loss.z_loss, loss.label_smoothing)
        valid = batch.get("valid", jnp.ones_like(label)).astype(jnp.float32)
        count = jnp.sum(valid)
        right = jnp.argmax(logits, axis=-1) == label
        metrics = {
            "loss": (jnp.sum(nll * valid), count),
            "accuracy": (jnp.sum(right * valid), count),
        }
        return with_routing(outputs, jnp.sum(minimised * valid), count, metrics)

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The likeliest class of each text, and the probability of every class.

        `label` int [B] or [B, G], `probabilities` float32 with an axis C behind.
        """

        def predict(variables, batch):
            logits, _ = forward(model, variables, batch)
            label = jnp.argmax(logits, axis=-1)
            return {"label": label, "probabilities": nn.softmax(logits)}

        return predict

    def questions(self, rows: Sequence[Mapping[str, str]]) -> TokenSource:
        vocabulary: Any = self.vocabulary
        ids = vocabulary.encode_batch([row["text"] for row in rows])
        return from_documents(ids)

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """The name of each text's class, its probability, and those of all classes."""
        names = self.config.labels or (corpus.class_names if corpus else ())
        names = names or tuple(map(str, range(self.config.num_classes)))
        return [
            {
                "label": names[k],
                "probability": float(p_C[k]),
                "probabilities": dict(zip(names, map(float, p_C), strict=True)),
            }
            for k, p_C in zip(values["label"], values["probabilities"], strict=True)
        ]

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """Accuracy, macro-F1 and the confusion matrix; see `classification_report`."""
        C = self.config.num_classes
        counts_CC = sum(
            (confusion(p.values["label"], p.labels["label"], C) for p in predictions),
            np.zeros((C, C), np.int64),
        )
        return classification_report(counts_CC, self.config.labels)

    def describe(self, report: Mapping[str, Any]) -> str:
        """The confusion matrix with the names of the classes."""
        return table(np.array(report["confusion"]), report["labels"])
