"""The protocol of a task: host features, outputs, score, predictions, report."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    ModelConfig,
    RunConfig,
    TextReading,
)
from llmjax.data.batches.chunks import Chunks, Clipped
from llmjax.data.batches.pipeline import Pipeline, Source
from llmjax.data.batches.streams import Feature
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.tokens import TokenSource, from_documents
from llmjax.data.tokenizers.vocabulary import Vocabulary
from llmjax.models import forward
from llmjax.models.heads.language import LanguageModel

Batch = Mapping[str, Any]
Params = Any
Variables = Any  # of Linen: {"params": ...}
# name -> (sum, count); sums of parts add up, and sum / count is what is printed
Metrics = dict[str, tuple[jax.Array, jax.Array]]
# (variables, batch, rng or None) -> any tree; dropout is off without an rng
Outputs = Callable[[Variables, Batch, jax.Array | None], Any]
# (params, frozen, extra, batch, rng or None) -> (sum, count, metrics, extra)
Loss = Callable[
    [Params, Any, Any, Batch, jax.Array | None],
    tuple[jax.Array, jax.Array, Metrics, Any],
]


class Predictions(NamedTuple):
    """A model's predictions for some examples of an evaluation, on the host.

    Attributes:
      ids: int64 [n], the examples' places in the evaluation; they do not depend on the
        number of processes. Packed rows whose features all lie along tokens are an
        example each.
      values: a tree of arrays [n, ...], from `Task.predict`.
      labels: `Task.labels` of these examples, [n, ...] each.
    """

    ids: np.ndarray
    values: Any
    labels: dict[str, np.ndarray]


@runtime_checkable
class Task(Protocol):
    """A pretraining objective or a fine-tuning task: all that is particular to it."""

    @property
    def num_outputs(self) -> int | None:
        """Columns of the head's projection, to count FLOPs; None: the vocabulary."""

    @property
    def needs_reference(self) -> bool:
        """Whether `outputs` reads the weights that the run began with, the collection
        `llmjax.models.forward.REFERENCE` of its variables."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Features, of an example or along its tokens, that `report` compares
        predictions with."""

    @property
    def writes(self) -> bool:
        """Whether its answers are texts, which `llmjax.infer.writing` writes."""

    @property
    def declared(self) -> Mapping[str, Feature]:
        """Features whose shape or stream cannot be read off their names and arrays."""

    def source(self, corpus: Corpus, split: str) -> Source:
        """The examples of a split.

        Raises:
          ValueError: the corpus lacks what the task reads.
        """

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Arrays of one example: along the sequence, or one value for all of it."""

    def length(self, num_tokens: int) -> int:
        """The length of the features of a text of `num_tokens` tokens."""

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Rows of random text, with the names, shapes and types of a run's batches."""

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        """A Transformer with this task's head; its input is a batch."""

    def outputs(self, model: nn.Module) -> Outputs:
        """The forward pass of `model`: all that `score` needs of it."""

    def score(
        self, outputs: Any, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """The sum to minimise, its count, and metrics.

        Args:
          outputs: the tree that `outputs` gave.
          batch: its targets or labels are read.
          training: leaves out metrics that only an evaluation prints.
        """

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """Predictions of a batch, without dropout: a tree of arrays [B, ...].

        Where rows hold several labelled texts, `valid` being [B, G], [B, G, ...].
        """

    def decode(self, values: Any, corpus: Corpus | None) -> list[Any]:
        """Predictions [n, ...] in words, one per example: a text, or what is predicted
        by name.

        Args:
          values: of `predict`, on the host.
          corpus: that the examples are of; None: rows of `questions`.
        """

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Metrics that follow from the means of others, such as a perplexity."""

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        """Metrics of a whole split that are no sums over examples; {}: none.

        Args:
          predictions: of every example once, some at a time; the same on all processes.
          sources: of the examples, where metrics compare what they were made of; of a
            mixture several.
        """

    def describe(self, report: Mapping[str, Any]) -> str:
        """A report for people, without what one line can say; "": nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Composed:
    """A `Loss` whose outputs and score are apart.

    Attributes:
      outputs: (params, frozen, batch, rng) -> any tree.
      score: of the task.
      whole_batch: whether the score compares rows, so that those of a batch have to be
        scored together.
    """

    outputs: Callable[[Params, Any, Batch, jax.Array | None], Any]
    score: Callable[..., tuple[jax.Array, jax.Array, Metrics]]
    whole_batch: bool = False

    def __call__(
        self, params: Params, frozen: Any, extra: Any, batch: Batch, rng: Any
    ) -> tuple[jax.Array, jax.Array, Metrics, Any]:
        tree = self.outputs(params, frozen, batch, rng)
        total, count, metrics = self.score(tree, batch, training=rng is not None)
        return total, count, metrics, extra


def loss_of(task: Task, model: nn.Module) -> Composed:
    """The loss of a task: its score of its outputs. With an rng, dropout is on."""
    apply = task.outputs(model)

    def outputs(params, frozen, batch, rng):
        return apply(forward.variables(params, frozen), batch, rng)

    return Composed(outputs, task.score, getattr(task, "whole_batch", False))


@dataclasses.dataclass(frozen=True, eq=False)
class Objective(abc.ABC):
    """Base of the tasks of `llmjax.tasks`, with defaults that a subclass overrides.

    Attributes:
      run: `task`, `data`, `model`, `loss` and `layout.loss_block` are read.
      vocabulary: the tokenizer.
      architectures, packings: accepted values of `model.architecture`, `data.packing`.
      specials: special tokens of the task beside the tokenizer's own.
      reads_loss: whether `score` has the terms of `config.loss`.
      head: the class of its models, where no other task has it and the hub may.
      num_outputs, needs_reference, labels, declared: see `Task`.
      inputs: names of the texts of a row that predictions are made from; (): the task
        predicts nothing for rows without labels.
      optional_inputs: names of what a row may have besides, of any type or null.
      reads_words: whether a list of words may stand for a text of `inputs`.
      read_values: those of `inputs` that are no texts, which `read_row` reads.
      writes: whether its predictions are texts, which `llmjax.infer.writing` writes;
        then it has `asked`, `asked_of`, `stop_tokens` and `text`.
      answer_columns: that predictions may have.
      own_vocabulary: whether the ids are those of its data alone, as of a shop's items,
        so that `model.vocab_size` follows from it.
      whole_batch: whether `score` compares the rows of a batch: their outputs are then
        scored together, in however many microbatches they were computed.
      diverges: whether it has a `divergence` of two outputs.
    """

    run: RunConfig
    vocabulary: Vocabulary

    architectures: ClassVar[tuple[str, ...]] = ("decoder",)
    packings: ClassVar[tuple[str, ...]] = ("concat", "first_fit", "chunk", "pad")
    specials: ClassVar[tuple[str, ...]] = ()
    reads_loss: ClassVar[bool] = True
    head: ClassVar[type[nn.Module] | None] = None
    labels: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    reads_words: ClassVar[bool] = False
    read_values: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False
    answer_columns: ClassVar[tuple[str, ...]] = (
        "label",
        "probability",
        "probabilities",
    )
    own_vocabulary: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    diverges: ClassVar[bool] = False
    declared: ClassVar[Mapping[str, Feature]] = {}

    @property
    def num_outputs(self) -> int | None:
        return None

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def config(self) -> Any:
        """The task's own config."""
        return self.run.task

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """Int32 [model.vocab_size]; 0 for ids that stand for no text."""
        num_bytes = self.vocabulary.token_bytes
        unused = self.run.model.vocab_size - len(num_bytes)
        return np.pad(num_bytes, (0, max(0, unused))).astype(np.int32)

    @property
    def text_length(self) -> int:
        """Tokens of a text whose features fill a row: the length of chunks and cuts."""
        return self.run.data.seq_len - self.length(0)

    def check(self) -> None:  # noqa: B027 - most tasks need no check of their own
        """Raises ValueError where the run does not fit the task; see `make_task`."""

    def source(self, corpus: Corpus, split: str) -> Source:
        return self.examples(self.documents(corpus, split))

    @classmethod
    def with_columns(cls, task: Any, data: DataConfig, *, said: bool) -> DataConfig:
        """`data` with the columns that the task reads, taken from a local source.

        Args:
          task: the config of the task.
          data: of one source; columns that it names stay.
          said: whether to say on standard error which they are.

        Raises:
          ValueError: no column, or several, could be one of them.
        """
        return data

    @classmethod
    def with_reading(cls, task: Any, reading: TextReading, data: DataConfig) -> Any:
        """The config of the task with what it leaves unsaid of the way to a vector.

        Args:
          task: the config.
          reading: of the weights that a run begins with.
          data: of the run.
        """
        return task

    @classmethod
    def reading_of(cls, task: Any) -> TextReading | None:
        """The way to a vector that a config says; None: its task gives none."""
        return None

    def answering(self, role: str = "") -> "Objective":
        """The task that answers the rows of a file; itself, but where it learns from
        rows of another kind.

        Args:
          role: of the texts, where they have one.

        Raises:
          ValueError: they have none.
        """
        if role:
            raise ValueError(
                f"task {self.config.kind!r} reads all texts alike, and the role is "
                f"{role!r}; leave it out"
            )
        return self

    @classmethod
    def of_model(cls, model: Any) -> Any:
        """The config of this task for a model whose class is `head`."""
        raise NotImplementedError(f"{cls.__name__} has no `head`")

    @classmethod
    def of_pairs(cls, task: Any) -> Any:
        """The config of this task for pairs of texts, where it can read one alone too.

        Raises:
          ValueError: it can't.
        """
        raise ValueError(f"task {task.kind!r} reads no second text beside each text")

    @classmethod
    def with_weights(cls, task: Any, start: int | None) -> Any:
        """The config of the task with what the weights at `init.path` say.

        Args:
          task: its config.
          start: id that their decoder begins with; None: they don't say.
        """
        return task

    def documents(self, corpus: Corpus, split: str) -> Any:
        """The documents of a split, in the field that the task reads."""
        return corpus.source(split)

    def examples(self, documents: Any) -> Source:
        """Examples of documents: with packing "chunk" pieces of `text_length` tokens,
        with "pad" each document's first, else whole documents."""
        packing = self.run.data.packing
        if packing == "chunk":
            return Chunks(documents, self.text_length, self.vocabulary.eos_id)
        return Clipped(documents, self.text_length) if packing == "pad" else documents

    @abc.abstractmethod
    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """See `Task.features`."""

    def length(self, num_tokens: int) -> int:
        return num_tokens

    def example_batch(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Full rows of random text, at the end of ramps of batch sizes and lengths."""
        fixed: dict[str, Any] = {"batch_sizes": (), "seq_lens": (), "mixture": ()}
        data = dataclasses.replace(self.run.data, batch_size=rows, **fixed)
        length = (rows + 1) * max(data.seq_len, data.encoder_seq_len or 0)
        rng = np.random.default_rng(0)
        texts = rng.integers(3, self.vocabulary.vocab_size, (4, length))
        labels = [i % (self.num_outputs or 1) for i in range(len(texts))]
        documents = from_documents(texts, labels, self.vocabulary.token_bytes)
        source = self.examples(documents)
        pipeline = Pipeline(
            source, self.features, data, self.length, declared=self.declared
        )
        return pipeline.batch(0)

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return LanguageModel(cfg, layout)

    @abc.abstractmethod
    def outputs(self, model: nn.Module) -> Outputs:
        """See `Task.outputs`."""

    @abc.abstractmethod
    def score(
        self, outputs: Any, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """See `Task.score`."""

    def divergence(self, outputs: Any, others: Any, batch: Batch) -> jax.Array:
        """How far two outputs for a batch are apart, summed over what `score` counts.

        KL divergences in both directions together; of numbers squared differences.
        """
        raise NotImplementedError(f"{self.config.kind!r} has no `divergence`")

    @abc.abstractmethod
    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """See `Task.predict`."""

    def decode(self, values: Any, corpus: Corpus | None) -> list[Any]:
        return list(values)

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        return {}

    def report(
        self, predictions: Iterable[Predictions], sources: Sequence[Source] = ()
    ) -> dict[str, Any]:
        return {}

    def input_columns(self, there: Collection[str]) -> dict[str, str]:
        """The column of each of `inputs` in a file of rows that are asked.

        Args:
          there: the columns of the file.
        """
        first, *others = self.inputs
        return {first: self.run.data.prepare.text, **{name: name for name in others}}

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        """What is counted of an answer to a row: its label, unless it is a number."""
        return [str(answer["label"])] if "label" in answer else []

    @property
    def sample(self) -> dict[str, Any]:
        """A row such as `questions` takes, to build batches of."""
        return dict.fromkeys(self.inputs, "a")

    def read_row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row of a file as `questions` takes them.

        Raises:
          ValueError: one is not what it should be; who reads the file says where.
        """
        return dict(values)

    def questions(self, rows: Sequence[Mapping[str, str]]) -> TokenSource:
        """Documents of rows that have the texts of `inputs` and no labels; their
        `examples` are predicted for."""
        raise NotImplementedError(f"{self.config.kind!r} has no `inputs`")

    def answers(self, source: Source, decoded: Sequence[Any]) -> list[Any]:
        """An answer to each row of `questions`, of what was decoded of its examples.

        Args:
          source: `examples` of the questions; its `owners`, if it has them, are the row
            of each example.
          decoded: of each example, by `decode`.
        """
        return list(decoded)

    def describe(self, report: Mapping[str, Any]) -> str:
        return ""
