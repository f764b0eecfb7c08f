"""Contrastive sentence embedding: two views of a text are near, other texts far."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig, TextReading
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads.classifier import pool, texts
from llmjax.models.heads.encoder import Encoder
from llmjax.tasks.embedding.losses import unit
from llmjax.tasks.embedding.vectors import VectorsTask, vectors_task
from llmjax.tasks.losses import cross_entropy
from llmjax.tasks.task import Batch, Metrics, Objective, Outputs, Variables

OTHER = "other_"  # prefix of the second text's features


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEmbeddingTask(Objective):
    """SimCSE (Gao et al. 2021, arXiv:2104.08821); princeton-nlp/SimCSE.

    A text is cut into two halves, one of them at random `tokens`, the other
    `other_tokens`. With `views` "halves" the two are the views; with "dropout" the
    views are `tokens` alone, read under two dropout masks. The loss is that of finding
    the second view among those of the global batch by the cosine over `temperature`, in
    that direction alone, like SimCSE's; an evaluation finds the other half.

    With pooling "first" a model with a pooler is trained through it and gives the
    hidden state before it, as unsupervised SimCSE does.
    """

    architectures = ("encoder", "decoder")
    packings = ("chunk", "pad")
    reads_loss = False  # its classes are the texts of a batch
    whole_batch = True
    inputs = ("text",)
    answer_columns = ("vector",)

    @property
    def num_outputs(self) -> int:
        return 0

    @property
    def text_length(self) -> int:
        """Tokens of two rows, less their special tokens."""
        return 2 * (self.run.data.seq_len - 2)

    def length(self, num_tokens: int) -> int:
        return (num_tokens + 1) // 2 + 2

    def check(self) -> None:
        """Raises ValueError for two views that would be one."""
        cfg = self.run.model
        if self.config.views == "dropout" and not cfg.dropout + cfg.attention_dropout:
            raise ValueError(
                "task.views='dropout' reads a text under two dropout masks, and "
                "model.dropout=0.0 makes them one; set it to 0.1, or task.views to "
                "'halves'"
            )

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and `other_tokens`: <cls> half <sep>."""
        cls, sep = (self.vocabulary.special_id(t) for t in ("<cls>", "<sep>"))
        text = example["tokens"].astype(np.int32)
        cut = (len(text) + 1) // 2
        halves = [
            np.concatenate([[np.int32(cls)], half, [np.int32(sep)]], dtype=np.int32)
            for half in (text[:cut], text[cut:])
        ]
        first = int(rng.integers(2))
        return {"tokens": halves[first], f"{OTHER}tokens": halves[1 - first]}

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return Encoder(cfg, layout)

    def outputs(self, model: nn.Module) -> Outputs:
        """The embeddings of both views, float32 [B, D] each, of length 1."""
        halves = self.config.views == "halves"

        def outputs(variables, batch, rng):
            keys = (None, None) if rng is None else jax.random.split(rng)
            second = other(batch) if halves or rng is None else batch
            return (
                self._embed(model, variables, batch, keys[0]),
                self._embed(model, variables, second, keys[1]),
            )

        return outputs

    def score(
        self,
        outputs: tuple[jax.Array, jax.Array],
        batch: Batch,
        training: bool = False,
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics per text: `loss` in nats, `accuracy` of the nearest, and `chance`,
        the accuracy of a guess."""
        a_BD, b_BD = outputs
        B = a_BD.shape[0]
        valid_B = batch.get("valid", jnp.ones(B, jnp.int32)) > 0
        logits_BB = a_BD @ b_BD.T / self.config.temperature
        logits_BB = jnp.where(valid_B, logits_BB, -jnp.inf)
        # a row that only fills up has no positive; any other text will do
        own_B = jnp.where(valid_B, jnp.arange(B), jnp.argmax(valid_B))
        _, nll_B = cross_entropy(logits_BB, own_B)
        right_B = jnp.argmax(logits_BB, axis=-1) == own_B
        count = jnp.sum(valid_B).astype(jnp.float32)
        total = jnp.sum(jnp.where(valid_B, nll_B, 0))
        metrics = {
            "loss": (total, count),
            "accuracy": (jnp.sum(right_B & valid_B), count),
            "chance": (jnp.minimum(count, 1), count),
        }
        return total, count, metrics

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The embedding of `tokens`, float32 [B, D] of length 1."""
        return lambda variables, batch: self._embed(model, variables, batch, None)

    def decode(self, values: Any, corpus: Corpus | None) -> list[Any]:
        return [vector.tolist() for vector in values]

    @classmethod
    def reading_of(cls, task: Any) -> TextReading:
        return TextReading(task.pooling)

    def answering(self, role: str = "") -> VectorsTask:
        """The task that gives the vectors of the texts of a file."""
        return vectors_task(self, self.reading_of(self.config), role)

    def _embed(
        self,
        model: nn.Module,
        variables: Variables,
        batch: Batch,
        rng: jax.Array | None,
    ) -> jax.Array:
        (x_BTD, pooled_BD), _ = forward(model, variables, batch, rng=rng)
        if self.config.pooling != "first" or rng is None or pooled_BD is None:
            pooled_BD = pool(x_BTD, texts(batch), self.config.pooling)[:, 0]
        return unit(pooled_BD.astype(jnp.float32))


def other(batch: Batch) -> dict[str, Any]:
    """The second text's features under the first one's names."""
    return {k.removeprefix(OTHER): v for k, v in batch.items() if k.startswith(OTHER)}
