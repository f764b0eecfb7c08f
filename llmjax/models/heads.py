"""What stands on a Transformer: the vocabulary, or the classes of a text."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig, SequenceClassification
from llmjax.models.cache import Cache
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


class LanguageModel(nn.Module):
    """A Transformer and its projection to the vocabulary, tied or not."""

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        if not cfg.tie_embeddings:
            init = nn.initializers.normal(cfg.init_std)
            self.unembedding = self.param(
                "unembedding",
                nn.with_logical_partitioning(init, ("V", "D")),
                (cfg.vocab_size, cfg.d_model),
            )

    def __call__(
        self,
        batch: Batch,
        cache: Cache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Float32 logits [B, T, V] and the cache; arguments as `Transformer`'s."""
        x_BTD, cache = self.transformer(batch, cache, encoded_BSD)
        table_VD = self._table().astype(x_BTD.dtype)
        logits_BTV = jnp.einsum(
            "BTD,VD->BTV", x_BTD, table_VD, preferred_element_type=jnp.float32
        )
        logits_BTV = nn.with_logical_constraint(logits_BTV, ("act_B", "act_T", "act_V"))
        return logits_BTV, cache

    def hidden(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Hidden states [B, T, D] and the output table [V, D], for a blocked loss."""
        return self.transformer(batch)[0], self._table()

    def encode(self, batch: Batch) -> jax.Array:
        """The encoder's hidden states [B, S, D] of an encoder-decoder."""
        return self.transformer.encode(batch)

    def _table(self) -> Any:
        if self.cfg.tie_embeddings:
            return self.transformer.embedder.table
        return self.unembedding


class SequenceClassifier(nn.Module):
    """A Transformer, its hidden states pooled per row, and a projection to classes."""

    cfg: ModelConfig
    task: SequenceClassification
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        self.classifier = Projection(
            "BD,DC->BC",
            (cfg.d_model, self.task.num_labels),
            ("D", "C"),
            cfg.init_std,
            bias=1,
            dtype=compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 logits [B, C]; rows are padded on the right."""
        x_BTD, _ = self.transformer(batch)
        segments_BT = batch.get("segment_ids")
        if segments_BT is None:
            segments_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
        pooled_BD = pool(x_BTD, segments_BT > 0, self.task.pooling)
        return self.classifier(pooled_BD).astype(jnp.float32)


def pool(x_BTD: jax.Array, real_BT: jax.Array, how: str) -> jax.Array:
    """One vector per row, [B, D], from its real tokens: their mean, first or last."""
    if how == "first":
        return x_BTD[:, 0]
    if how == "last":
        last_B = jnp.maximum(jnp.sum(real_BT, axis=1) - 1, 0)
        return jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
    weight_BT = real_BT / jnp.maximum(jnp.sum(real_BT, axis=1, keepdims=True), 1)
    mean_BD = jnp.einsum("BTD,BT->BD", x_BTD, weight_BT.astype(x_BTD.dtype))
    return mean_BD
