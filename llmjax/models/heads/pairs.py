"""A language model that also classifies pairs of texts."""

from typing import Any

import jax
import jax.numpy as jnp

from llmjax.models.heads.encoder import square
from llmjax.models.heads.language import LanguageModel, Outputs
from llmjax.models.layers import Projection, compute_dtype
from llmjax.models.paged import AnyCache
from llmjax.models.transformer import Batch


class PairModel(LanguageModel):
    """A language model that also tells two classes of pairs apart.

    By a projection of tanh(dense(first token)), BERT's pooler, which it has whatever
    `cfg.pooler` says (Devlin et al. 2018).
    """

    def setup(self):
        super().setup()
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        self.pooler = square(cfg, self.layout, "BD,DE->BE")
        self.pair = Projection(
            "BD,DC->BC", (cfg.d_model, 2), ("D", "C"), cfg.init_std, 1, dtype
        )

    def __call__(
        self,
        batch: Batch,
        cache: AnyCache | None = None,
        encoded_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Float32 logits [B, T, V] of tokens and [B, 2] of pairs; reads the batch."""
        outputs, pair_BC = self.pair_outputs(batch)
        return outputs.logits(), pair_BC

    def pair_outputs(self, batch: Batch) -> tuple[Outputs, jax.Array]:
        """`Outputs` of tokens, and logits of pairs, float32 [B, 2]."""
        x_BTD = self.hidden(batch)
        pooled_BD = jnp.tanh(self.pooler(x_BTD[:, 0]))
        return self._outputs(x_BTD), self.pair(pooled_BD).astype(jnp.float32)
