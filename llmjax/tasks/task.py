"""What a task is: features on the host, a loss and predictions on the device."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig, RunConfig
from llmjax.data.batches.chunks import Chunks, Clipped
from llmjax.data.batches.pipeline import Source
from llmjax.data.store.tokens import TokenSource
from llmjax.data.tokenizers.vocabulary import Vocabulary
from llmjax.models.forward import variables
from llmjax.models.heads.language import LanguageModel

Batch = Mapping[str, Any]
Params = Any
# name -> (sum, count); what is printed is sum / count, once, at the end
Metrics = dict[str, tuple[jax.Array, jax.Array]]
# (params, frozen, extra, batch, rng or None) -> (sum, count, metrics, extra)
Loss = Callable[
    [Params, Any, Any, Batch, jax.Array | None],
    tuple[jax.Array, jax.Array, Metrics, Any],
]


@runtime_checkable
class Task(Protocol):
    """Pretraining objectives and fine-tuning tasks alike."""

    def source(self, documents: TokenSource) -> Source:
        """What examples are drawn from: the documents themselves, or made of them."""

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Of one example: arrays along the sequence, and scalars (padded rows only)."""

    def length(self, num_tokens: int) -> int:
        """The length of the features of a text of `num_tokens` tokens."""

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        """A Transformer with this task's head; its input is a batch."""

    def loss(self, model: nn.Module) -> Loss:
        """The sum and count to minimise; with an rng, dropout is on."""

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """What the model says of a batch."""


@dataclasses.dataclass(frozen=True, eq=False)
class Objective(abc.ABC):
    """What the tasks of `llmjax.tasks` have in common; each overrides what it must.

    Attributes:
      run: of which `task`, `data` and `model` are read.
      vocabulary: the tokenizer.
      architectures, packings: that it accepts.
      specials: tokens that it needs beside the text's.
    """

    run: RunConfig
    vocabulary: Vocabulary

    architectures: ClassVar[tuple[str, ...]] = ("decoder",)
    packings: ClassVar[tuple[str, ...]] = ("concat", "first_fit", "chunk", "pad")
    specials: ClassVar[tuple[str, ...]] = ()

    @property
    def config(self) -> Any:
        """The task's own config."""
        return self.run.task

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """Int32 [model.vocab_size]; 0 for ids that stand for no text."""
        known = self.vocabulary.token_bytes
        extra = self.run.model.vocab_size - len(known)
        return np.pad(known, (0, max(0, extra))).astype(np.int32)

    @property
    def text_length(self) -> int:
        """Tokens of a text whose features fill a row: what chunks and cuts are of."""
        return self.run.data.seq_len - self.length(0)

    def check(self) -> None:  # noqa: B027 - most have nothing to add
        """Raises ValueError where the run does not fit the task; see `make_task`."""

    def source(self, documents: TokenSource) -> Source:
        """By packing "chunk" pieces of `text_length`, by "pad" documents cut at it."""
        packing = self.run.data.packing
        if packing == "chunk":
            return Chunks(documents, self.text_length, self.vocabulary.eos_id)
        return Clipped(documents, self.text_length) if packing == "pad" else documents

    @abc.abstractmethod
    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """As `Task.features`."""

    def length(self, num_tokens: int) -> int:
        return num_tokens

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return LanguageModel(cfg, layout)

    @abc.abstractmethod
    def loss(self, model: nn.Module) -> Loss:
        """As `Task.loss`."""

    @abc.abstractmethod
    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """As `Task.predict`."""


def loss_of(task: Task, model: nn.Module) -> Loss:
    """The task's loss of a model whose weights are partly frozen."""
    loss = task.loss(model)

    def call(params, frozen, extra, batch, rng):
        params = variables(params, frozen)["params"]
        return loss(params, frozen, extra, batch, rng)

    return call


def rngs(rng: jax.Array | None) -> dict[str, jax.Array]:
    """The named streams of `apply`; none at evaluation."""
    return {} if rng is None else {"dropout": rng}
