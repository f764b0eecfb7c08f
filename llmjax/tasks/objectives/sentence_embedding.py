"""Contrastive sentence embedding: two views of a text are near, other texts far."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.heads.classifier import pool
from llmjax.models.heads.encoder import Encoder
from llmjax.tasks.losses import cross_entropy
from llmjax.tasks.task import Batch, Loss, Objective, Params, rngs

OTHER = "other_"  # before the names of the second text's stream


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEmbeddingTask(Objective):
    """SimCSE (Gao et al. 2021, arXiv:2104.08821); princeton-nlp/SimCSE.

    A text is cut into two halves; each time at random one is `tokens` and one the
    stream `other_tokens`. With `views` "halves" the two are the views; with "dropout"
    `tokens` alone are, read twice under two dropout masks. The loss is that of finding
    the second view among those of the global batch by the cosine over `temperature`, in
    that direction alone, as SimCSE's; its evaluation finds the other half.

    With pooling "first" a model with a pooler is trained through it and gives the
    hidden state before it, as unsupervised SimCSE does.
    """

    architectures = ("encoder", "decoder")
    packings = ("chunk", "pad")

    @property
    def text_length(self) -> int:
        """Two rows' of text."""
        return 2 * (self.run.data.seq_len - 2)

    def length(self, num_tokens: int) -> int:
        return (num_tokens + 1) // 2 + 2

    def check(self) -> None:
        """Raises ValueError for microbatches, or two views that would be one."""
        cfg, k = self.run.model, self.run.layout.microbatches
        if k > 1:
            raise ValueError(
                f"task 'sentence_embedding' takes its negatives from the whole batch, "
                f"and layout.microbatches={k} would leave those of a microbatch "
                "(gradient caching, which could do both, is not offered yet); set it "
                "to 1 and, for memory, layout.remat or more devices"
            )
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

    def loss(self, model: Any) -> Loss:
        """Metrics per text: `loss` in nats, `accuracy` of what is nearest, and
        `chance`, the accuracy of a guess."""
        halves = self.config.views == "halves"

        def loss(params, frozen, extra, batch, rng):
            training = rng is not None
            keys = jax.random.split(rng) if training else (None, None)
            second = other(batch) if halves or not training else batch
            a_BD = self._embed(model, params, batch, keys[0])
            b_BD = self._embed(model, params, second, keys[1])
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
            return total, count, metrics, extra

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The embedding of `tokens`, float32 [B, D] of length 1."""
        return lambda params, batch: self._embed(model, params, batch, None)

    def _embed(
        self, model: Any, params: Params, batch: Batch, rng: jax.Array | None
    ) -> jax.Array:
        x_BTD, pooled_BD = model.apply({"params": params}, batch, rngs=rngs(rng))
        segments_BT = batch.get("segment_ids", jnp.ones(x_BTD.shape[:2], jnp.int32))
        if self.config.pooling != "first" or rng is None or pooled_BD is None:
            pooled_BD = pool(x_BTD, segments_BT > 0, self.config.pooling)
        return unit(pooled_BD.astype(jnp.float32))


def other(batch: Batch) -> dict[str, Any]:
    """The second text's stream under the first one's names."""
    return {k.removeprefix(OTHER): v for k, v in batch.items() if k.startswith(OTHER)}


def unit(x_BD: jax.Array) -> jax.Array:
    """x / |x|; 0 of 0, and a gradient there too."""
    square_B1 = jnp.sum(jnp.square(x_BD), axis=-1, keepdims=True)
    return x_BD * jax.lax.rsqrt(jnp.maximum(square_B1, 1e-12))
