"""A Transformer that scores the relation of two entities of a text."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.heads.classifier import pool
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


class RelationClassifier(nn.Module):
    """The states of two entities, beside each other, times a matrix.

    Baldini Soares et al. 2019 (1906.03158), figure 3 (d) to (f); which tokens stand for
    an entity is the batch's to say.

    Attributes:
      classes: relations.
      labels: their names; (): none are known.
      origin: see `SequenceClassifier`.
    """

    cfg: ModelConfig
    classes: int
    layout: LayoutConfig = LayoutConfig()
    labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True, compare=False)
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        self.dropout = nn.Dropout(cfg.dropout, deterministic=False)
        self.classifier = Projection(
            "BGD,DC->BGC",
            (2 * cfg.d_model, self.classes),
            ("D", "C"),
            cfg.init_std,
            bias=1,
            dtype=compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 logits [B, C].

        Args:
          batch: `entities` [B, T] is 1 at tokens that stand for the head, 2 for the
            tail, else 0.
        """
        x_BTD, _ = self.transformer(batch)
        member_BGT = batch["entities"][:, None] == jnp.array([[1], [2]])
        x_BGD = pool(x_BTD, member_BGT, "mean")
        x_B1E = x_BGD.reshape(len(x_BGD), 1, -1)
        if self.cfg.dropout and self.has_rng("dropout"):
            x_B1E = self.dropout(x_B1E)
        return self.classifier(x_B1E)[:, 0].astype(jnp.float32)
