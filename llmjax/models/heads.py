"""What stands on a Transformer: the vocabulary, a pooler, the classes of a text."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import (
    LayoutConfig,
    ModelConfig,
    SequenceClassification,
    Transformed,
)
from llmjax.models.cache import Cache
from llmjax.models.layers import ACTIVATIONS, Norm, Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


@flax.struct.dataclass
class Outputs:
    """What a loss needs instead of logits: softcap(x . table + bias).

    Attributes:
      x_BTM: what meets the table.
      table_VM: of the embeddings, or its own.
      bias_V: None for none.
      softcap: None for none.
    """

    x_BTM: jax.Array
    table_VM: jax.Array
    bias_V: Any = None
    softcap: float | None = flax.struct.field(pytree_node=False, default=None)

    def logits(self) -> jax.Array:
        """Float32 [B, T, V]."""
        logits_BTV = jnp.einsum(
            "BTM,VM->BTV",
            self.x_BTM,
            self.table_VM.astype(self.x_BTM.dtype),
            preferred_element_type=jnp.float32,
        )
        if self.bias_V is not None:
            logits_BTV = logits_BTV + self.bias_V.astype(jnp.float32)
        if self.softcap is not None:
            logits_BTV = self.softcap * jnp.tanh(logits_BTV / self.softcap)
        return nn.with_logical_constraint(logits_BTV, ("act_B_L", "act_T", "act_V"))


class LanguageModel(nn.Module):
    """A Transformer and its projection to the vocabulary, tied or not."""

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg = self.cfg
        M = cfg.embedding_size or cfg.d_model
        self.transformer = self.body()
        if isinstance(cfg.output, Transformed):
            self.head = OutputTransform(cfg, self.layout)
        if not cfg.tie_embeddings:
            init = nn.initializers.normal(cfg.init_std)
            self.unembedding: Any = self.param(
                "unembedding",
                nn.with_logical_partitioning(init, ("V", "D")),
                (cfg.vocab_size, M),
            )
        if cfg.output_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("V",))
            self.output_bias: Any = self.param("output_bias", zeros, (cfg.vocab_size,))

    def body(self) -> Any:
        """What gives the hidden states; called once, by `setup`."""
        return Transformer(self.cfg, self.layout)

    def __call__(
        self,
        batch: Batch,
        cache: Cache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Float32 logits [B, T, V] and the cache; arguments as `Transformer`'s."""
        x_BTD, cache = self.transformer(batch, cache, encoded_BSD)
        return self._outputs(x_BTD).logits(), cache

    def hidden(self, batch: Batch) -> jax.Array:
        """The Transformer's last hidden states [B, T, D]."""
        return self.transformer(batch)[0]

    def outputs(self, batch: Batch) -> Outputs:
        """Logits yet to be made, for a blocked loss."""
        return self._outputs(self.transformer(batch)[0])

    def encode(self, batch: Batch) -> jax.Array:
        """The encoder's hidden states [B, S, D] of an encoder-decoder."""
        return self.transformer.encode(batch)

    def _outputs(self, x_BTD: jax.Array) -> Outputs:
        cfg = self.cfg
        if isinstance(cfg.output, Transformed):
            x_BTD = self.head(x_BTD)
        if cfg.output_scale != 1.0:
            x_BTD = x_BTD * cfg.output_scale
        tied = cfg.tie_embeddings
        table_VM = self.transformer.embedder.table if tied else self.unembedding
        bias_V = self.output_bias if cfg.output_bias else None
        return Outputs(x_BTD, table_VM, bias_V, cfg.output_softcap)


class OutputTransform(nn.Module):
    """norm(f(dense(x))), to the embeddings' size (Devlin et al. 2018, their code)."""

    cfg: ModelConfig
    layout: LayoutConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg, output = self.cfg, self.cfg.output
        assert isinstance(output, Transformed)
        shape = (cfg.d_model, cfg.embedding_size or cfg.d_model)
        dtype, bias = compute_dtype(self.layout), int(output.bias)
        dense = Projection(
            "BTD,DM->BTM",
            shape,
            ("D", "D_out"),
            cfg.init_std,
            bias,
            dtype,
            name="transform",
        )
        x_BTM = ACTIVATIONS[output.activation](dense(x_BTD))
        return Norm(cfg.norm, name="norm")(x_BTM)


class Encoder(nn.Module):
    """A Transformer without an output, and where it has one its pooler.

    The pooler is tanh(dense(first token)) (Devlin et al. 2018).
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

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


class Discriminator(nn.Module):
    """Was each token replaced? ELECTRA's discriminator (Clark et al. 2020)."""

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        self.dense = square(cfg, self.layout, "BTD,DE->BTE")
        self.prediction = Projection(
            "BTD,DC->BTC",
            (cfg.d_model, 1),
            ("D", "C"),
            cfg.init_std,
            1,
            compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 logits [B, T]; above 0: replaced."""
        x_BTD = ACTIVATIONS["gelu"](self.dense(self.hidden(batch)))
        return self.prediction(x_BTD)[..., 0].astype(jnp.float32)

    def hidden(self, batch: Batch) -> jax.Array:
        """The last hidden states [B, T, D]."""
        return self.transformer(batch)[0]


def square(cfg: ModelConfig, layout: LayoutConfig, equation: str) -> Projection:
    """A projection from D to D with a bias."""
    shape, dtype = (cfg.d_model, cfg.d_model), compute_dtype(layout)
    return Projection(equation, shape, ("D", "D_out"), cfg.init_std, 1, dtype)


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
