"""Masked language modelling: predict hidden tokens from both of their sides."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.models.heads import language
from llmjax.tasks.objectives.language import LanguageObjective, token_weights
from llmjax.tasks.objectives.token_masking import TokenMasking, budget
from llmjax.tasks.routing import Routed, with_routing
from llmjax.tasks.task import Batch, Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedLMTask(LanguageObjective):
    """Devlin et al. 2018, arXiv:1810.04805, 3.1; <cls> text <sep>.

    Follows google-research/bert's create_pretraining_data.py; see `TokenMasking`.
    """

    architectures = ("encoder",)
    specials = ("<mask>",)

    @functools.cached_property
    def masking(self) -> TokenMasking:
        """The choice of the tokens that are predicted."""
        return TokenMasking(self.config, self.vocabulary)

    @functools.cached_property
    def frame(self) -> tuple[np.ndarray, np.ndarray]:
        """<cls> and <sep>, int32 [1] each."""
        cls, sep = (self.vocabulary.special_id(t) for t in ("<cls>", "<sep>"))
        return np.array([cls], np.int32), np.array([sep], np.int32)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` with masks, `targets`, and `weights`, 1 where predicted."""
        cls, sep = self.frame
        text = example["tokens"].astype(np.int32)
        return self.masking(np.concatenate([cls, text, sep]), rng)

    def length(self, num_tokens: int) -> int:
        return num_tokens + 2

    def max_predictions(self, T: int) -> int:
        """The most predicted tokens of a row of T; only these get logits."""
        if self.run.data.packing in ("chunk", "pad"):
            return min(T, budget(self.config.rate, T))
        return T  # several texts in a row, each with at least one

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Metrics: `loss` in nats and, evaluating, `accuracy`, per predicted token."""
        total, count_B, metrics = self.masked_loss(outputs.head, batch, training)
        return with_routing(outputs, total, jnp.sum(count_B), metrics)

    def masked_loss(
        self, outputs: language.Outputs, batch: Batch, training: bool
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """The sum to minimise, predictions per row, float [B], and the metrics.

        Args:
          outputs: of all places of `batch`; only those predicted get logits.
        """
        most = self.max_predictions(batch["tokens"].shape[1])
        places_BP, weights_BP = predicted_places(batch, most)
        there = dataclasses.replace(outputs, x_BTM=at(outputs.x_BTM, places_BP))
        targets = {"targets": at(batch["targets"], places_BP)}
        total, metrics = self.token_loss(there, targets, weights_BP, training)
        return total, jnp.sum(weights_BP, axis=1), metrics


def predicted_places(batch: Batch, most: int) -> tuple[jax.Array, jax.Array]:
    """The places of each row's predictions, and their weights; int, float [B, P].

    A row of fewer than P = `most` is filled up with places of weight 0.
    """
    weights_BP, places_BP = jax.lax.top_k(token_weights(batch), most)
    return places_BP, weights_BP


def at(x: jax.Array, places_BP: jax.Array) -> jax.Array:
    """[B, T, ..] at `places_BP`: [B, P, ..]."""
    index = places_BP.reshape(*places_BP.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)
