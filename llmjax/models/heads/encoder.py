"""A Transformer that gives hidden states and, where it has one, its pooler's."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


class Encoder(nn.Module):
    """A Transformer without an output, and where it has one its pooler.

    The pooler is tanh(dense(first token)) (Devlin et al. 2018).

    Attributes:
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        if cfg.pooler:
            self.pooler = square(cfg, self.layout, "BD,DE->BE")

    def __call__(self, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
        """Hidden states [B, T, D], and the pooled [B, D] or None."""
        x_BTD = self.transformer(batch)[0]
        return x_BTD, jnp.tanh(self.pooler(x_BTD[:, 0])) if self.cfg.pooler else None

    def hidden(self, batch: Batch) -> jax.Array:
        """The last hidden states [B, T, D]."""
        return self.transformer(batch)[0]


def square(cfg: ModelConfig, layout: LayoutConfig, equation: str) -> Projection:
    """A projection from D to D with a bias."""
    shape, dtype = (cfg.d_model, cfg.d_model), compute_dtype(layout)
    return Projection(equation, shape, ("D", "D_out"), cfg.init_std, 1, dtype)
