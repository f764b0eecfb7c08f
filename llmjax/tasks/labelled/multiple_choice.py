"""Multiple choice: which of several texts goes with a text."""

import dataclasses
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    DataConfig,
    Label,
    LayoutConfig,
    ModelConfig,
    MultipleChoice,
    Text,
    Texts,
)
from llmjax.data.batches.pipeline import Source
from llmjax.data.batches.streams import Feature
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import RecordSource
from llmjax.models.forward import forward
from llmjax.models.heads.choice import ChoiceScorer, prefix
from llmjax.tasks.labelled.pairs import PairTask
from llmjax.tasks.losses import cross_entropy, divergence
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import (
    Batch,
    Metrics,
    Outputs,
    Predictions,
    Variables,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """Examples {"question": ids, "choices": a list of ids, "label": the right one's}.

    Attributes:
      lengths: int64 [len], tokens of a question and its longest choice together.
      read: index -> example.
      cut: how many are longer than a row.
    """

    lengths: np.ndarray
    read: Callable[[int], dict[str, Any]]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"question {index} of {len(self)}")
        return self.read(index % len(self))


@dataclasses.dataclass(frozen=True, eq=False)
class _Record:
    """The example of a record; picklable."""

    records: RecordSource
    config: MultipleChoice
    numbers: np.ndarray

    def __call__(self, index: int) -> dict[str, Any]:
        record, config = self.records[index], self.config
        label = int(record[config.label_field])
        return {
            "question": record[config.question_field].ids,
            "choices": [choice.ids for choice in record[config.choices_field]],
            "label": int(self.numbers[label]),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class _Listed:
    """The example of a row in memory."""

    rows: Sequence[Mapping[str, Any]]

    def __call__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


@dataclasses.dataclass(frozen=True, eq=False)
class MultipleChoiceTask(PairTask):
    """A score for each choice, read beside the question as a pair of texts.

    The loss is that of the right one among all (Devlin et al. 2018, 4.4). What does not
    fit into a row is cut from the question's beginning, and only then from the choice's
    end. A record may have fewer choices than the most.
    """

    architectures = ("encoder",)
    labels = ("label",)
    kinds: ClassVar[Mapping[str, Any]] = {
        "question": Text,
        "choices": Texts,
        "label": Label,
    }
    inputs = ("question", "choices")
    reads_words = True
    answer_columns = ("choice", "probability", "probabilities")
    diverges = True
    head = ChoiceScorer

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def declared(self) -> Mapping[str, Feature]:  # type: ignore[override]
        """The stream of each choice, of as many tokens as a row."""
        names = ["tokens", *(["token_types"] if self.run.model.token_types else [])]
        return {
            prefix(c) + name: Feature("token", prefix(c)[:-1], dtype=np.int32)
            for c in range(self.config.choices)
            for name in names
        }

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        names = task.question_field, task.choices_field, task.label_field
        return columns.with_choices(data, *names, said=said)

    @classmethod
    def of_model(cls, model: Any) -> MultipleChoice:
        return MultipleChoice()

    # --- examples --------------------------------------------------------------------

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The questions of a split.

        Raises:
          ValueError: the corpus has no such records, too many or too few choices, or a
            label that is none of them.
        """
        self.require_fields(corpus)
        config = self.config
        label: Any = corpus.schema.fields[config.label_field]
        numbers = np.array([*map(_number, label.classes), -1])
        records = corpus.records(split)
        counts, longest = records.text_sizes(config.choices_field)
        read = _Record(records, config, numbers)
        wrong = (counts > config.choices) | (counts < 2)
        for k in np.flatnonzero(wrong)[:1].tolist():
            raise ValueError(
                f"record {k} of the split {split!r} has {counts[k]} choices; accepted: "
                f"2 to task.choices={config.choices}"
            )
        classes = records.labels(config.label_field)
        right = numbers[classes]
        for k in np.flatnonzero((right < 0) | (right >= counts))[:1].tolist():
            raise ValueError(
                f"record {k} of the split {split!r} has {counts[k]} choices and the "
                f"label {label.classes[classes[k]]!r}; accepted: the number of one of "
                "them from 0 on, or its letter from A on"
                if classes[k] >= 0
                else f"record {k} of the split {split!r} has no label; take it out"
            )
        lengths = records.field_lengths(config.question_field) + longest
        return self._fitted(lengths, read)

    def _fitted(self, lengths: np.ndarray, read: Callable[[int], Any]) -> Choices:
        """Examples, cut to a row."""
        room = self.text_length
        return Choices(np.minimum(lengths, room), read, int((lengths > room).sum()))

    def examples(self, documents: Choices) -> Source:
        return documents

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and `token_types` of each choice's pair, under its `prefix`, and the
        scalar `label`."""
        out: dict[str, np.ndarray] = {}
        room, types = self.text_length, bool(self.run.model.token_types)
        for c in range(self.config.choices):
            tokens = kinds = np.zeros(0, np.int32)
            if c < len(example["choices"]):
                choice = example["choices"][c][:room]
                question = example["question"]
                question = question[max(0, len(question) + len(choice) - room) :]
                tokens, kinds = self.vocabulary.pair_with_specials(question, choice)
            out[prefix(c) + "tokens"] = tokens
            if types:
                out[prefix(c) + "token_types"] = kinds
        return out | {"label": np.asarray(example["label"], np.int32)}

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        n, C = self.text_length, self.config.choices
        rng = np.random.default_rng(0)
        texts = rng.integers(3, self.vocabulary.vocab_size, (rows, C, n))
        examples = [
            {
                "question": row[0, : n - n // 2].astype(np.int32),
                "choices": [*row[:, : n // 2].astype(np.int32)],
                "label": k % C,
            }
            for k, row in enumerate(texts)
        ]
        return self.full_batch(Choices(np.full(rows, n), _Listed(examples)), rows)

    # --- model and loss --------------------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return ChoiceScorer(cfg, layout)

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model)

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per question: `loss` in nats and `accuracy`."""
        scores_BC, label_B = outputs.head, batch["label"]
        valid_B = batch.get("valid", jnp.ones_like(label_B)).astype(jnp.float32)
        # rows that only fill up have no choice at all
        scores_BC = jnp.where(valid_B[:, None] > 0, scores_BC, 0.0)
        scores_BC = jnp.maximum(scores_BC, -1e9)
        _, nll_B = cross_entropy(scores_BC, label_B)
        count, total = jnp.sum(valid_B), jnp.sum(nll_B * valid_B)
        right = jnp.sum((jnp.argmax(scores_BC, axis=-1) == label_B) * valid_B)
        metrics = {"loss": (total, count), "accuracy": (right, count)}
        return with_routing(outputs, total, count, metrics)

    def divergence(self, outputs: Routed, others: Routed, batch: Batch) -> jax.Array:
        valid_B = batch.get("valid", jnp.ones_like(batch["label"]))
        one, other = (
            jnp.maximum(jnp.where(valid_B[:, None] > 0, x.head, 0.0), -1e9)
            for x in (outputs, others)
        )
        return jnp.sum(divergence(one, other) * valid_B)

    # --- predictions -----------------------------------------------------------------

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The likeliest choice of each row, int32 [B], and the probability of each,
        float32 [B, choices], 0 of those that are not there."""

        def predict(variables, batch):
            scores_BC, _ = forward(model, variables, batch)
            scores_BC = jnp.maximum(scores_BC, -1e9)
            p_BC = nn.softmax(scores_BC)
            return {"choice": jnp.argmax(scores_BC, axis=-1), "probabilities": p_BC}

        return predict

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows, each with a `question` and a list of `choices`.

        Raises:
          ValueError: choices that are no list, or too many.
        """
        vocabulary: Any = self.vocabulary
        examples = []
        for row in rows:
            texts, most = row["choices"], self.config.choices
            if not isinstance(texts, list):
                texts = [texts]
            if len(texts) > most:
                raise ValueError(
                    f"a row has {len(texts)} choices ({texts[0]!r}, …); accepted: up "
                    f"to task.choices={most}"
                )
            choices = [*vocabulary.encode_batch(texts)]
            question = vocabulary.encode(row["question"])
            examples.append({"question": question, "choices": choices, "label": 0})
        sizes = [
            len(e["question"]) + max(map(len, e["choices"]), default=0)
            for e in examples
        ]
        return self._fitted(np.array(sizes, np.int64), _Listed(examples))

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """The number of the likeliest choice, its probability, and those of all."""
        return [
            {
                "choice": int(k),
                "probability": float(p_C[k]),
                "probabilities": [float(p) for p in p_C],
            }
            for k, p_C in zip(values["choice"], values["probabilities"], strict=True)
        ]

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """The number of the choice."""
        return [str(answer["choice"])]

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """Accuracy over all questions, and how often each place is right and chosen."""
        C = self.config.choices
        right, chosen, hits, n = np.zeros(C, int), np.zeros(C, int), 0, 0
        for part in predictions:
            label, choice = part.labels["label"], part.values["choice"]
            right += np.bincount(label, minlength=C)
            chosen += np.bincount(choice, minlength=C)
            hits, n = hits + int((label == choice).sum()), n + len(label)
        places = {"right": right.tolist(), "chosen": chosen.tolist()}
        return {"accuracy": hits / max(n, 1), "questions": n, **places}

    def describe(self, report: Mapping[str, Any]) -> str:
        """A line that says how many are right, and whether places are preferred."""
        return (
            f"accuracy {report['accuracy']:.4f} on {report['questions']:,} questions; "
            f"right ones by place {report['right']}, chosen {report['chosen']}"
        )


def _number(name: str) -> int:
    """The place that a label's name says: "2" or "C"; -1: none."""
    if name.isdecimal():
        return int(name)
    letter = name.strip().upper()
    return string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
