"""A Transformer whose hidden states are projected to tags, each by itself."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    LayoutConfig,
    LinearHead,
    ModelConfig,
    NormedHead,
    TokenHead,
    Transformed,
)
from llmjax.models.heads.language import OutputTransform
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


class TokenClassifier(nn.Module):
    """A Transformer and a head that scores the tags of every token.

    Attributes:
      classes: columns of the last projection, the tags.
      form: what lies between a hidden state and the last projection.
      crf: whether there are scores of tags beside each other too.
      labels: the tags; (): none are known.
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    classes: int
    layout: LayoutConfig = LayoutConfig()
    form: TokenHead = LinearHead()
    crf: bool = False
    labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True, compare=False)
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg, form, C = self.cfg, self.form, self.classes
        self.transformer = Transformer(cfg, self.layout)
        if isinstance(form, NormedHead):
            output = Transformed(form.activation, form.bias)
            own = dataclasses.replace(cfg, output=output, embedding_size=None)
            self.head = OutputTransform(own, self.layout)
        self.dropout = nn.Dropout(cfg.dropout, deterministic=False)
        self.tagger = Projection(
            "BTD,DC->BTC",
            (cfg.d_model, C),
            ("D", "C"),
            cfg.init_std,
            bias=0 if form == LinearHead(bias=False) else 1,
            dtype=compute_dtype(self.layout),
        )
        if self.crf:
            zeros = nn.initializers.zeros
            square = nn.with_logical_partitioning(zeros, ("C", "C"))
            vector = nn.with_logical_partitioning(zeros, ("C",))
            self.between = self.param("between", square, (C, C))
            self.first = self.param("first", vector, (C,))
            self.last = self.param("last", vector, (C,))

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 scores of the tags of each token, [B, T, C]."""
        x_BTD, _ = self.transformer(batch)
        if isinstance(self.form, NormedHead):
            x_BTD = self.head(x_BTD)
        if self.cfg.dropout and self.has_rng("dropout"):
            x_BTD = self.dropout(x_BTD)
        return self.tagger(x_BTD).astype(jnp.float32)

    def scores(self, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
        """Scores of tokens' tags, and with `crf` those of two tags beside each other
        [C, C], of a text's first tag and of its last one [C], in float32."""
        scores_BTC = self(batch)
        if not self.crf:
            return scores_BTC, None
        beside = self.between, self.first, self.last
        return scores_BTC, tuple(jnp.asarray(x, jnp.float32) for x in beside)
