"""A Transformer whose pooled hidden states are projected to classes."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
        of each class by itself, or numbers; None: a folder of the hub has one score and
        does not say it.
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    classes: int
    pooling: Pooling = "mean"
    layout: LayoutConfig = LayoutConfig()
    form: ClassifierHead = LinearHead()
    labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True, compare=False)
    problem: str | None = dataclasses.field(default=SINGLE, kw_only=True, compare=False)
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
        logits_BGC = self.scores(x_BGD)
        return logits_BGC if has_segments(batch) else logits_BGC[:, 0]

    def scores(self, x_BGD: jax.Array) -> jax.Array:
        """Float32 logits of each text's vector."""
        return self.classifier(x_BGD).astype(jnp.float32)

    def _formed(self, x_BGD: jax.Array) -> jax.Array:
        """The input of the last projection."""
        if isinstance(self.form, PoolerHead):
            return jnp.tanh(self.pooler(x_BGD))
        if isinstance(self.form, DenseHead):
            name = self.form.activation
            act = jnp.tanh if name == "tanh" else ACTIVATIONS[name]
            return act(self.pre_classifier(x_BGD))
        return self.head(x_BGD) if isinstance(self.form, NormedHead) else x_BGD


class OrdinalClassifier(SequenceClassifier):
    """A classifier of ordered classes, by one score and the thresholds between them.

    The proportional-odds model (McCullagh 1980): P(class <= k) = sigmoid(t_k - score).
    Its logits are log-probabilities. Each threshold lies above the one before it by
    softplus of its parameter; at first all classes are equally likely for a score of 0.
    """

    def setup(self):
        super().setup()
        self.score = Projection(
            "BGD,DC->BGC",
            (self.cfg.d_model, 1),
            ("D", "C"),
            self.cfg.init_std,
            dtype=compute_dtype(self.layout),
        )
        init = nn.with_logical_partitioning(even_thresholds, ("C",))
        self.thresholds: Any = self.param("thresholds", init, (self.classes - 1,))

    def scores(self, x_BGD: jax.Array) -> jax.Array:
        score_BG1 = self.score(x_BGD).astype(jnp.float32)
        return ordinal_log_probabilities(score_BG1, self.thresholds)


def even_thresholds(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Parameters of thresholds under which all classes are equally likely at 0."""
    (count,) = shape
    shares = jnp.arange(1, count + 1) / (count + 1)
    thresholds = jnp.log(shares) - jnp.log1p(-shares)
    gaps = jnp.diff(thresholds)
    return jnp.concatenate([thresholds[:1], jnp.log(jnp.expm1(gaps))])


def ordinal_log_probabilities(
    score: Float[Array, "*texts 1"], thresholds: Float[Array, " T"]
) -> Float[Array, "*texts C"]:
    """log P of each of T + 1 ordered classes.

    With a_k = t_k - score, P(k) = sigmoid(a_k) - sigmoid(a_(k-1)), which is
    sigmoid(a_k) sigmoid(-a_(k-1)) (1 - exp(t_(k-1) - t_k)); and as the gap of two
    thresholds is softplus of a parameter, the last factor is its sigmoid.

    Args:
      score: of each text.
      thresholds: parameters: the first threshold, then the gaps before softplus.
    """
    gaps = jnp.concatenate([thresholds[:1], nn.softplus(thresholds[1:])])
    above = jnp.cumsum(gaps) - score
    no = jnp.zeros((*above.shape[:-1], 1), above.dtype)
    between = nn.log_sigmoid(thresholds[1:])
    up_to = jnp.concatenate([nn.log_sigmoid(above), no], axis=-1)
    beyond = jnp.concatenate([no, nn.log_sigmoid(-above)], axis=-1)
    return up_to + beyond + jnp.pad(between, 1)


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
