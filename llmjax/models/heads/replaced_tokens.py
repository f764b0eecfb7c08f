"""ELECTRA: a discriminator of tokens, and the generator that replaces them."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    Group,
    LayoutConfig,
    ModelConfig,
    Plain,
    Transformed,
)
from llmjax.models.context import Context
from llmjax.models.heads.encoder import square
from llmjax.models.heads.language import Outputs, OutputTransform
from llmjax.models.layers import ACTIVATIONS, Projection, compute_dtype
from llmjax.models.stack import Stack
from llmjax.models.transformer import Batch, Transformer


class Discriminator(nn.Module):
    """Was each token replaced? ELECTRA's discriminator (Clark et al. 2020).

    Attributes:
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

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
        mlp = self.cfg.mlp  # ELECTRA's activation is the one of its MLPs
        name = mlp.activation if isinstance(mlp, Plain) else "gelu"
        x_BTD = ACTIVATIONS[name](self.dense(self.hidden(batch)))
        return self.prediction(x_BTD)[..., 0].astype(jnp.float32)

    def hidden(self, batch: Batch) -> jax.Array:
        """The last hidden states [B, T, D]."""
        return self.transformer(batch)[0]


def generator_config(cfg: ModelConfig, size: float) -> ModelConfig:
    """The generator of a discriminator: as deep, `size` times as wide.

    Its embeddings are the discriminator's, projected, and its output BERT's, tied to
    them (google-research/electra's run_pretraining.py). Heads keep their size where
    `head_dim` says one, else there are `size` times as many, of at least one.

    Raises:
      ValueError: the widths can't be scaled to whole heads.
    """

    def scaled(n: int) -> int:
        return max(1, round(n * size))

    N = scaled(cfg.num_heads)
    while N > 1 and cfg.num_heads % N:  # so that groups of heads stay whole
        N -= 1
    heads = None if cfg.num_kv_heads is None else max(1, N * cfg.K // cfg.num_heads)
    D = scaled(cfg.d_model)
    if cfg.head_dim is None and D % N:
        raise ValueError(
            f"a generator of task.generator_size={size} has d_model={D} and {N} heads, "
            "which do not divide it; change task.generator_size or model.num_heads"
        )
    groups = tuple(
        Group(
            group.repeat,
            tuple(
                dataclasses.replace(spec, d_ff=spec.d_ff and scaled(spec.d_ff))
                for spec in group.pattern
            ),
            group.shared,
        )
        for group in cfg.groups
    )
    return dataclasses.replace(
        cfg,
        d_model=D,
        d_ff=scaled(cfg.d_ff),
        num_heads=N,
        num_kv_heads=heads,
        groups=groups,
        embedding_size=cfg.embedding_size or cfg.d_model,
        output=cfg.output if isinstance(cfg.output, Transformed) else Transformed(),
    )


class Generator(nn.Module):
    """Layers and an output on top of another model's embeddings.

    Attributes:
      cfg: `embedding_size` is that of the embeddings.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()

    def setup(self):
        cfg = self.cfg
        M = cfg.embedding_size or cfg.d_model
        shape, axes, dtype = (
            (M, cfg.d_model),
            ("D", "D_out"),
            compute_dtype(self.layout),
        )
        self.projection = Projection("BTM,MD->BTD", shape, axes, cfg.init_std, 1, dtype)
        self.stack = Stack(cfg, self.layout, cfg.layers)
        self.head = OutputTransform(cfg, self.layout)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("V",))
        self.output_bias: Any = self.param("output_bias", zeros, (cfg.vocab_size,))

    def __call__(
        self, x_BTM: jax.Array, context: Context, places_BP: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Vectors [B, P, M] at `places_BP`, to meet the table, and its bias."""
        x_BTD, _ = self.stack(self.projection(x_BTM), context)
        x_BPD = jnp.take_along_axis(x_BTD, places_BP[..., None], axis=1)
        return self.head(x_BPD), self.output_bias


class ReplacedTokenDetector(Discriminator):
    """ELECTRA's discriminator and, as `generator`, the model that makes its input.

    Clark et al. 2020, arXiv:2003.10555, 3.1: the generator shares the embeddings of
    tokens, types and positions, and their norm.

    Attributes:
      size: of the generator; see `generator_config`.
    """

    size: float = 0.25

    def setup(self):
        super().setup()
        self.generator = Generator(generator_config(self.cfg, self.size), self.layout)

    def __call__(self, batch: Batch) -> jax.Array:
        """The discriminator's logits, float32 [B, T]; above 0: replaced."""
        if self.is_initializing():
            self.generate(batch, jnp.zeros((batch["tokens"].shape[0], 1), jnp.int32))
        return super().__call__(batch)

    def generate(self, batch: Batch, places_BP: jax.Array) -> Outputs:
        """The generator's `Outputs` at `places_BP`."""
        transformer = self.transformer
        x_BPM, bias_V = self.generator(*transformer.inputs(batch), places_BP)
        table_VM = transformer.embedder.table
        return Outputs(x_BPM, table_VM, bias_V, self.cfg.output_softcap)
