"""A Transformer that says of each token how well it begins and ends an answer."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


class SpanFinder(nn.Module):
    """A Transformer and one projection of its hidden states to two scores.

    Attributes:
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        self.answers = Projection(
            "BTD,DC->BTC",
            (cfg.d_model, 2),
            ("D", "C"),
            cfg.init_std,
            bias=1,
            dtype=compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 scores of each token as an answer's first and last, [B, T, 2]."""
        x_BTD, _ = self.transformer(batch)
        return self.answers(x_BTD).astype(jnp.float32)
