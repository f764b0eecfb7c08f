"""A Transformer whose pooled states are told into classes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig, SequenceClassification
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


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
