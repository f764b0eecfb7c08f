"""A Transformer whose pooled hidden states are projected to classes."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer

Pooling = Literal["mean", "first", "last"]


class SequenceClassifier(nn.Module):
    """A Transformer, its hidden states pooled per text, and a projection to classes.

    Attributes:
      classes: columns of the projection.
      pooling: the vector of a text; see `pool`.
    """

    cfg: ModelConfig
    classes: int
    pooling: Pooling = "mean"
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        self.classifier = Projection(
            "BGD,DC->BGC",
            (cfg.d_model, self.classes),
            ("D", "C"),
            cfg.init_std,
            bias=1,
            dtype=compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 logits: [B, C] of rows; with `valid` [B, G], [B, G, C] of segments.

        Place g of a row's G is its segment g + 1.
        """
        x_BTD, _ = self.transformer(batch)
        pooled_BGD = pool(x_BTD, texts(batch), self.pooling)
        logits_BGC = self.classifier(pooled_BGD).astype(jnp.float32)
        return logits_BGC if has_segments(batch) else logits_BGC[:, 0]


def has_segments(batch: Batch) -> bool:
    """Whether a row has values of its own for each of its segments."""
    return "valid" in batch and batch["valid"].ndim > 1


def texts(batch: Batch) -> jax.Array:
    """The real tokens of each text of a batch, bool [B, G, T].

    G is 1, the row, where `valid` is [B] or absent; else that of `valid` [B, G].
    Without `segment_ids` there is no padding.
    """
    segments_BT = batch.get("segment_ids")
    if segments_BT is None:
        segments_BT = jnp.ones(batch["tokens"].shape, jnp.int32)
    if not has_segments(batch):
        return (segments_BT > 0)[:, None]
    ids_G1 = 1 + jnp.arange(batch["valid"].shape[1])[:, None]
    return segments_BT[:, None] == ids_G1


def pool(x_BTD: jax.Array, member_BGT: jax.Array, pooling: Pooling) -> jax.Array:
    """The mean, first or last hidden state of each group of tokens, [B, G, D].

    Args:
      x_BTD: hidden states.
      member_BGT: bool, the tokens of each group. A group without tokens has a mean of
        0, and the row's first or last state: its place must not count.
      pooling: which of the three.
    """
    if pooling == "mean":
        count_BG1 = jnp.sum(member_BGT, axis=-1, keepdims=True)
        weight_BGT = member_BGT / jnp.maximum(count_BG1, 1)
        return jnp.einsum("BTD,BGT->BGD", x_BTD, weight_BGT.astype(x_BTD.dtype))
    if pooling == "first":
        place_BG = jnp.argmax(member_BGT, axis=-1)
    else:
        T = member_BGT.shape[-1]
        place_BG = T - 1 - jnp.argmax(member_BGT[..., ::-1], axis=-1)
    return jnp.take_along_axis(x_BTD, place_BG[..., None], axis=1)
