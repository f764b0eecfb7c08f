"""Texts to vectors: tokens of a text behind its prompt, and a task that predicts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig, TextReading
from llmjax.data.batches.pipeline import Source
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads.classifier import Pooling, pool, texts
from llmjax.models.heads.encoder import Encoder
from llmjax.tasks.embedding.losses import unit
from llmjax.tasks.task import Batch, Metrics, Objective, Outputs, Variables

Role = Literal["query", "passage", ""]


def embed(
    model: Any,
    variables: Variables,
    batch: Batch,
    pooling: Pooling,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """The pooled hidden states of a batch's texts, float32 [B, D], and the sums of the
    model's routers."""
    x_BTD, sums = forward(model, variables, batch, rng=rng, method="hidden")
    pooled_BD = pool(x_BTD, texts(batch), pooling)[:, 0]
    return pooled_BD.astype(jnp.float32), sums


@dataclasses.dataclass(frozen=True, eq=False)
class Framed:
    """The tokens of a text as a model reads them.

    Attributes:
      vocabulary: a tokenizer; one that encodes texts where there is a prompt.
      prompt: before the text.
      length: the most tokens, special ones among them.
    """

    vocabulary: Any
    prompt: str
    length: int

    @property
    def room(self) -> int:
        """Tokens of prompt and text."""
        return self.length - int(self.vocabulary.num_specials)

    def encoded(self, text: str, ids: np.ndarray | None = None) -> np.ndarray:
        """The tokens of prompt and text, uncut; `ids`: of the text alone, if known.

        The prompt is read together with the text, as a tokenizer may join them.
        """
        if self.prompt or ids is None:
            return np.asarray(self.vocabulary.encode(self.prompt + text), np.int32)
        return ids

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """`ids` cut to the room, with special tokens around them."""
        left = self.vocabulary.truncation_side == "left"
        cut = ids[max(0, len(ids) - self.room) :] if left else ids[: self.room]
        return np.asarray(self.vocabulary.with_specials(cut), np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Texts in memory as examples {"tokens": ids}.

    Attributes:
      ids: of each text, cut.
      cut: how many were longer.
    """

    ids: Sequence[np.ndarray]
    cut: int

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return {"tokens": self.ids[index]}


@dataclasses.dataclass(frozen=True, eq=False)
class VectorsTask(Objective):
    """A vector for each text of a file; it predicts, and trains nothing.

    Attributes:
      reading: the way from a text to its vector.
      role: which of the prompts is put before a text; "": none.
    """

    architectures = ("encoder", "decoder")
    packings = ("pad",)
    inputs = ("text",)
    answer_columns = ("vector",)
    reading: TextReading = TextReading()
    role: Role = ""

    @property
    def num_outputs(self) -> int:
        return 0

    @property
    def frame(self) -> Framed:
        """Prompt and length of a text."""
        reading, prompt = self.reading, ""
        if self.role:
            prompt = getattr(reading, f"{self.role}_prompt")
        length = min(self.run.data.seq_len, reading.max_length or 2**31)
        return Framed(self.vocabulary, prompt, length)

    def length(self, num_tokens: int) -> int:
        return num_tokens + int(self.vocabulary.num_specials)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        return {"tokens": self.frame.framed(example["tokens"])}

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return Encoder(cfg, layout)

    def outputs(self, model: nn.Module) -> Outputs:
        predict = self.predict(model)
        return lambda variables, batch, rng: predict(variables, batch)

    def score(
        self, outputs: Any, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        raise NotImplementedError("vectors of texts are predicted and not scored")

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The vectors of the texts, float32 [B, D]."""
        pooling, normalize = self.reading.pooling, self.reading.normalize

        def predict(variables, batch):
            x_BD, _ = embed(model, variables, batch, pooling)
            return unit(x_BD) if normalize else x_BD

        return predict

    def questions(self, rows: Sequence[Mapping[str, str]]) -> Any:
        frame, vocabulary = self.frame, self.vocabulary
        texts = [frame.prompt + row["text"] for row in rows]
        ids = vocabulary.encode_batch(texts)  # type: ignore[attr-defined]
        room = frame.room
        left = vocabulary.truncation_side == "left"
        short = [i[max(0, len(i) - room) :] if left else i[:room] for i in ids]
        return Encoded(short, sum(len(i) > room for i in ids))

    def examples(self, documents: Any) -> Source:
        return documents

    def decode(self, values: Any, corpus: Corpus | None) -> list[dict[str, Any]]:
        """Each vector as a list of numbers."""
        return [{"vector": vector.tolist()} for vector in values]

    def counted(self, answer: Mapping[str, Any]) -> list[str]:
        return []


def vectors_task(task: Objective, reading: TextReading, role: Any) -> VectorsTask:
    """The task that gives the vectors of texts by another one's model.

    Raises:
      ValueError: a role that texts do not have.
    """
    if role not in ("query", "passage", ""):
        raise ValueError(
            f"the role {role!r} is none of texts; accepted: query, passage"
        )
    return VectorsTask(task.run, task.vocabulary, reading, role)
