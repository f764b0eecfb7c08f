"""A Transformer and its projection to the vocabulary."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import (
    LayoutConfig,
    ModelConfig,
    Transformed,
)
from llmjax.models.layers import ACTIVATIONS, Norm, Projection, compute_dtype, table
from llmjax.models.paged import AnyCache
from llmjax.models.transformer import Batch, Transformer


@flax.struct.dataclass
class Outputs:
    """Factors of the logits, for a loss in blocks: softcap(x . table + bias).

    Attributes:
      x_BTM: vectors that meet the table.
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
    """A Transformer and its projection to the vocabulary, tied or not.

    Attributes:
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg = self.cfg
        M = cfg.embedding_size or cfg.d_model
        self.transformer = self.body()
        if isinstance(cfg.output, Transformed):
            self.head = OutputTransform(cfg, self.layout)
        if not cfg.tie_embeddings:
            shape, axes, std = (cfg.vocab_size, M), ("V", "D"), cfg.init_std
            self.unembedding: Any = table(
                self, "unembedding", "BTM,VM->BTV", shape, axes, std
            )
        if cfg.output_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("V",))
            self.output_bias: Any = self.param("output_bias", zeros, (cfg.vocab_size,))

    def body(self) -> Any:
        """The module of the hidden states; called once, by `setup`."""
        return Transformer(self.cfg, self.layout)

    def __call__(
        self,
        batch: Batch,
        cache: AnyCache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, AnyCache | None]:
        """Float32 logits [B, T, V] and the cache; arguments as `Transformer`'s."""
        x_BTD, cache = self.transformer(batch, cache, encoded_BSD)
        return self._outputs(x_BTD).logits(), cache

    def last_logits(
        self, batch: Batch, cache: AnyCache, last_B: jax.Array
    ) -> tuple[jax.Array, AnyCache | None]:
        """Float32 logits [B, V] after token `last_B[b]` of row b alone, and the cache.

        The vocabulary is met by B vectors instead of B T.
        """
        x_BTD, new = self.transformer(batch, cache)
        x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
        return self._outputs(x_B1D).logits()[:, 0], new

    def hidden(self, batch: Batch) -> jax.Array:
        """The Transformer's last hidden states [B, T, D]."""
        return self.transformer(batch)[0]

    def outputs(self, batch: Batch) -> Outputs:
        """The factors of the logits, for a blocked loss."""
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
