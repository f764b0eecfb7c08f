"""Extractive question answering: the characters of a text that answer a question."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    ModelConfig,
    QuestionAnswering,
    Spans,
    Text,
    wording,
)
from llmjax.data.batches.answer_windows import AnswerWindows, Asked, Listed, Questions
from llmjax.data.batches.pipeline import Source
from llmjax.data.batches.streams import Feature
from llmjax.data.prepare import labelled as columns
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.records import RecordSource
from llmjax.models.forward import forward
from llmjax.models.heads.span import SpanFinder
from llmjax.tasks.labelled import spans, squad
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

_CONTEXT, _FRESH = 1, 2  # of a token: in the text, and the window shows it best


@dataclasses.dataclass(frozen=True, eq=False)
class RecordQuestions:
    """The questions of a split's records.

    Attributes:
      records: of the split.
      question, context, answers: their fields.
    """

    records: RecordSource
    question: str
    context: str
    answers: str

    @property
    def sizes(self) -> np.ndarray:
        names = self.question, self.context
        return np.stack([self.records.field_lengths(n) for n in names], axis=1)

    def __getitem__(self, index: int, /) -> Asked:
        record = self.records[index]
        question, context = record[self.question], record[self.context]
        right = record[self.answers][:, :2].astype(np.int64)
        return Asked(question.ids, context.text, context.ids, context.offsets, right)


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionAnsweringTask(PairTask):
    """The first and the last token of an answer, each by a score (Devlin 2018, 4.2).

    A row has the question and the text, or a window of it where it is long, with the
    tokenizer's specials for a pair. A window without an answer is learned as the first
    token of the row, of a decoder the last: the place of "none". Answers are the spans
    of up to `max_answer` tokens with the highest sum of both scores, over all windows.
    """

    architectures = ("encoder", "decoder")
    labels = ("window",)
    kinds: ClassVar[Mapping[str, Any]] = {
        "question": Text,
        "context": Text,
        "answers": Spans,
    }
    inputs = ("context", "question")
    diverges = True
    head = SpanFinder
    answer_columns = ("answer", "start", "stop", "probability", "none", "n_best")
    declared: ClassVar[Mapping[str, Feature]] = {
        "answer": Feature("segment", shape=(2,), dtype=np.int32)
    }

    @property
    def num_outputs(self) -> int:
        return 2

    # --- examples --------------------------------------------------------------------

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        names = task.question_field, task.context_field, task.answers_field
        return columns.with_answers(data, *names, said=said)

    @classmethod
    def of_model(cls, model: Any) -> QuestionAnswering:
        return QuestionAnswering()

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The questions of a split.

        Raises:
          ValueError: the corpus has no such records, or questions without an answer
            though `no_answer` is not set.
        """
        self.require_fields(corpus)
        config, names = self.config, tuple(map(self.field, self.kinds))
        records = corpus.records(split)
        counts = records.counts(config.answers_field)
        without = np.flatnonzero(counts == 0)
        if len(without) and not config.no_answer:
            raise ValueError(
                f"{len(without):,} of the {len(counts):,} records of the split "
                f"{split!r} have no answer, the first is record {without[0]}; set "
                "task.no_answer=true, or take them out"
            )
        questions = RecordQuestions(records, *names)
        if empty := int((questions.sizes[:, 1] == 0).sum()):
            said = wording.count(empty, "question") + " without a text: left out"
            print(f"split {split!r}: {said}", file=sys.stderr)
        return questions

    def examples(self, documents: Questions) -> Source:
        room, config = self.text_length, self.config
        stride = min(config.stride, room // 4)
        return AnswerWindows(documents, room, stride, config.max_question)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Arrays of a window.

        `tokens` and `token_types` of the pair; `context`, 1 for the text's tokens and 2
        for those around which this window shows most; `answer` [2], its first and last
        place; and the scalar `window`.
        """
        n = len(example["context"])
        places = np.arange(-n, 0, dtype=np.int32)
        tokens, types = self.vocabulary.pair_with_specials(example["question"], places)
        here = tokens < 0
        context = np.zeros(len(tokens), np.int32)
        context[here] = np.where(example["fresh"], _FRESH, _CONTEXT)
        tokens[here] = example["context"]
        first = int(np.argmax(here))
        none = 0 if self._none_first else len(tokens) - 1
        answer = example["answer"] + first if example["answer"][0] >= 0 else [none] * 2
        features = {
            "tokens": tokens,
            "context": context,
            "answer": np.asarray(answer, np.int32),
            "window": np.asarray(example["window"], np.int32),
        }
        if self.run.model.token_types:
            features["token_types"] = types
        return features

    @property
    def _none_first(self) -> bool:
        return self.run.model.architecture == "encoder"

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        n, rng = self.text_length, np.random.default_rng(0)
        k = min(self.config.max_question, n // 2)  # tokens of a question
        ids = rng.integers(3, self.vocabulary.vocab_size, (rows, n)).astype(np.int32)
        places = np.arange(n - k)[:, None] + [0, 1]
        asked = [
            Asked(row[:k], "a" * (n - k), row[k:], places, places[:1]) for row in ids
        ]
        return self.full_batch(self.examples(Listed(asked)), rows)

    # --- model and loss --------------------------------------------------------------

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return SpanFinder(cfg, layout)

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model)

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per window: `loss`, the mean of both ends' in nats, and `accuracy`,
        the share in which both are the likeliest."""
        scores_BTC, answer_BC = _masked(outputs.head, batch), batch["answer"]
        nll_BC = cross_entropy(jnp.swapaxes(scores_BTC, 1, 2), answer_BC)[1]
        right_BC = jnp.argmax(scores_BTC, axis=1) == answer_BC
        valid = batch.get("valid", jnp.ones(len(answer_BC))).astype(jnp.float32)
        count, total = jnp.sum(valid), jnp.sum(jnp.mean(nll_BC, axis=1) * valid)
        hits = jnp.sum(jnp.all(right_BC, axis=1) * valid)
        metrics = {"loss": (total, count), "accuracy": (hits, count)}
        return with_routing(outputs, total, count, metrics)

    def divergence(self, outputs: Routed, others: Routed, batch: Batch) -> jax.Array:
        ends = (_masked(x.head, batch) for x in (outputs, others))
        apart_BC = divergence(*(jnp.swapaxes(x, 1, 2) for x in ends))
        valid_B = batch.get("valid", jnp.ones(len(apart_BC)))
        return jnp.sum(jnp.mean(apart_BC, axis=1) * valid_B)

    # --- predictions -----------------------------------------------------------------

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The best answers of each window.

        `first` and `last` int32 [B, n_best], counted from its text's first token; their
        `score`; and that of "none", `none` [B].
        """
        config = self.config

        def predict(variables, batch):
            scores_BTC = _masked(forward(model, variables, batch)[0], batch)
            context_BT = batch["context"]
            ends_B2T = jnp.swapaxes(scores_BTC, 1, 2)
            found = spans.best(
                jnp.where(context_BT == _FRESH, ends_B2T[:, 0], -jnp.inf),
                jnp.where(context_BT > 0, ends_B2T[:, 1], -jnp.inf),
                config.max_answer,
                config.n_best,
            )
            begin_B1 = jnp.argmax(context_BT > 0, axis=1)[:, None]
            place_B = jnp.zeros(len(context_BT), jnp.int32)
            if not self._none_first:
                place_B = jnp.sum(batch["segment_ids"] > 0, axis=1) - 1
            none_B2 = jnp.take_along_axis(ends_B2T, place_B[:, None, None], axis=2)
            return {
                "first": found.first - begin_B1,
                "last": found.last - begin_B1,
                "score": found.score,
                "none": jnp.sum(none_B2, axis=(1, 2)),
            }

        return predict

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """Whether it is one."""
        return ["an answer" if answer["answer"] else "none"]

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows, each with a `question` and a `context`, without answers."""
        vocabulary: Any = self.vocabulary
        none = np.zeros((0, 2), np.int64)
        asked = []
        for row in rows:
            ids, offsets = vocabulary.encode_with_offsets(row["context"])
            question = vocabulary.encode(row["question"])
            asked.append(Asked(question, row["context"], ids, offsets, none))
        return Listed(asked)

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """The best answers of each window, in places of its text's tokens."""
        names = tuple(values)
        rows = zip(*(values[name] for name in names), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def answers(self, source: Source, decoded: Sequence[Any]) -> list[Any]:
        """The best answer of each question, "" for none; see `spans.answer`."""
        assert isinstance(source, AnswerWindows)
        number = len(source.questions.sizes)
        return [answer for _, answer in self._answered(source, decoded, range(number))]

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """SQuAD's exact match and F1 over the questions that were asked; see
        `squad.report`. {} of a mixture, whose questions are not told apart."""
        source = sources[0] if len(sources) == 1 else None
        if not isinstance(source, AnswerWindows):
            return {}
        decoded: list[Any] = [None] * len(source)
        for part in predictions:
            rows = self.decode(part.values, None)
            for window, row in zip(part.labels["window"], rows, strict=True):
                decoded[int(window)] = row
        seen = [k for k, row in enumerate(decoded) if row is not None]
        asked = np.unique(source.owners[seen]).tolist()
        pairs = self._answered(source, decoded, asked)
        return squad.report(
            (answer["answer"], [q.text[a:b] for a, b in q.answers.tolist()])
            for q, answer in pairs
        )

    def describe(self, report: Mapping[str, Any]) -> str:
        """A line for all questions, and for those with and without an answer."""
        parts = {"all": report, **{k: v for k, v in report.items() if k in _KINDS}}
        lines = [
            f"{name:12}{wording.count(p['questions'], 'question'):>20}  exact match "
            f"{p['exact_match']:.3f}  F1 {p['f1']:.3f}"
            for name, p in parts.items()
        ]
        return "\n".join(lines)

    def _answered(
        self, source: AnswerWindows, decoded: Sequence[Any], asked: Iterable[int]
    ) -> Iterable[tuple[Asked, dict[str, Any]]]:
        """Questions and their answers, from the predictions for their windows."""
        config = self.config
        for owner in asked:
            question = source.questions[owner]
            first, stop = np.searchsorted(source.owners, [owner, owner + 1])
            windows = [
                (int(source.starts[k]), decoded[k])
                for k in range(first, stop)
                if decoded[k] is not None
            ]
            threshold = config.null_threshold if config.no_answer else None
            yield question, spans.answer(question, windows, config.n_best, threshold)


_KINDS = ("answered", "unanswered")


def _masked(scores_BTC: jax.Array, batch: Batch) -> jax.Array:
    """Scores, of padding -1e9: no answer is there."""
    here_BT = batch["segment_ids"] > 0 if "segment_ids" in batch else None
    if here_BT is None:
        return scores_BTC
    return jnp.where(here_BT[..., None], scores_BTC, -1e9)
