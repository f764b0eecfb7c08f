"""A Transformer whose pooled hidden states are projected to classes."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    ClassifierHead,
    DenseHead,
    LayoutConfig,
    LinearHead,
    ModelConfig,
    NormedHead,
    PoolerHead,
    Transformed,
)
from llmjax.models.heads.encoder import square
from llmjax.models.heads.language import OutputTransform
from llmjax.models.layers import ACTIVATIONS, Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer

Pooling = Literal["mean", "first", "last"]
SINGLE = "single_label_classification"


class SequenceClassifier(nn.Module):
    """A Transformer, its hidden states pooled per text, and a head that scores classes.

    Attributes:
      classes: columns of the last projection.
      pooling: the vector of a text; see `pool`.
      form: what lies between that vector and the last projection.
      labels: names of the classes; (): none are known.
      problem: what the scores mean, by the hub's name: logits of one class of several,
        of each class by itself, or numbers.
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    classes: int
    pooling: Pooling = "mean"
    layout: LayoutConfig = LayoutConfig()
    form: ClassifierHead = LinearHead()
    labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True, compare=False)
    problem: str = dataclasses.field(default=SINGLE, kw_only=True, compare=False)
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg, form = self.cfg, self.form
        self.transformer = Transformer(cfg, self.layout)
        if isinstance(form, PoolerHead):
            self.pooler = square(cfg, self.layout, "BGD,DE->BGE")
        elif isinstance(form, DenseHead):
            self.pre_classifier = square(cfg, self.layout, "BGD,DE->BGE")
        elif isinstance(form, NormedHead):
            output = Transformed(form.activation, form.bias)
            own = dataclasses.replace(cfg, output=output, embedding_size=None)
            self.head = OutputTransform(own, self.layout)
        self.dropout = nn.Dropout(cfg.dropout, deterministic=False)
        self.classifier = Projection(
            "BGD,DC->BGC",
            (cfg.d_model, self.classes),
            ("D", "C"),
            cfg.init_std,
            bias=0 if form == LinearHead(bias=False) else 1,
            dtype=compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 logits: [B, C] of rows; with `valid` [B, G], [B, G, C] of segments.

        Place g of a row's G is its segment g + 1.
        """
        x_BTD, _ = self.transformer(batch)
        x_BGD = self._formed(pool(x_BTD, texts(batch), self.pooling))
        if self.cfg.dropout and self.has_rng("dropout"):
            x_BGD = self.dropout(x_BGD)
        logits_BGC = self.classifier(x_BGD).astype(jnp.float32)
        return logits_BGC if has_segments(batch) else logits_BGC[:, 0]

    def _formed(self, x_BGD: jax.Array) -> jax.Array:
        """The input of the last projection."""
        if isinstance(self.form, PoolerHead):
            return jnp.tanh(self.pooler(x_BGD))
        if isinstance(self.form, DenseHead):
            name = self.form.activation
            act = jnp.tanh if name == "tanh" else ACTIVATIONS[name]
            return act(self.pre_classifier(x_BGD))
        return self.head(x_BGD) if isinstance(self.form, NormedHead) else x_BGD


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
