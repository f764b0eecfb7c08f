"""A Transformer that scores each of several texts by its pooled first token."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.heads.encoder import square
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.transformer import Batch, Transformer


def prefix(choice: int) -> str:
    """The beginning of the names of a choice's features in a batch; "" of the first."""
    return f"choice{choice}_" if choice else ""


class ChoiceScorer(nn.Module):
    """A Transformer, a pooler (tanh(dense(first token))) and one score of each choice.

    As `…ForMultipleChoice` of BERT's family (Devlin et al. 2018, 4.4).

    Attributes:
      origin: what `hub.load` keeps of a folder for `hub.save`; None: not loaded.
    """

    cfg: ModelConfig
    layout: LayoutConfig = LayoutConfig()
    origin: Any = dataclasses.field(default=None, kw_only=True, compare=False)

    def setup(self):
        cfg = self.cfg
        self.transformer = Transformer(cfg, self.layout)
        self.pooler = square(cfg, self.layout, "BD,DE->BE")
        self.dropout = nn.Dropout(cfg.dropout, deterministic=False)
        self.scorer = Projection(
            "BD,DC->BC",
            (cfg.d_model, 1),
            ("D", "C"),
            cfg.init_std,
            bias=1,
            dtype=compute_dtype(self.layout),
        )

    def __call__(self, batch: Batch) -> jax.Array:
        """Float32 scores [B, C] of choices; of one that is not there -inf.

        Args:
          batch: `tokens` of the first choice, `choice1_tokens` of the second, and so
            on; what else a Transformer reads alike.
        """
        rows, choices = joined(batch)
        x_BTD, _ = self.transformer(rows)
        x_BD = jnp.tanh(self.pooler(x_BTD[:, 0]))
        if self.cfg.dropout and self.has_rng("dropout"):
            x_BD = self.dropout(x_BD)
        scores = self.scorer(x_BD).astype(jnp.float32)[:, 0]
        scores_BC = scores.reshape(-1, choices)
        if "segment_ids" not in rows:
            return scores_BC
        there_BC = (rows["segment_ids"][:, 0] > 0).reshape(scores_BC.shape)
        return jnp.where(there_BC, scores_BC, -jnp.inf)


def joined(batch: Mapping[str, Any]) -> tuple[dict[str, jax.Array], int]:
    """The choices of each row of a batch as rows of their own, one after another, and
    how many each row has."""
    names = ("tokens", "token_types", "segment_ids", "positions")
    choices = 1
    while prefix(choices) + "tokens" in batch:
        choices += 1
    rows = {}
    for name in names:
        if name in batch:
            parts = [jnp.asarray(batch[prefix(c) + name]) for c in range(choices)]
            stacked = jnp.stack(parts, axis=1)
            rows[name] = stacked.reshape(-1, *stacked.shape[2:])
    return rows, choices
