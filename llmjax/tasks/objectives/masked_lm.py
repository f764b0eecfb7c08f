"""Masked language modelling: predict hidden tokens from both of their sides."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.models.heads.language import Outputs
from llmjax.tasks.objectives.language import likeliest, token_loss, token_weights
from llmjax.tasks.objectives.masking import Masking, budget
from llmjax.tasks.routing import forward, routed
from llmjax.tasks.task import Batch, Loss, Metrics, Objective, Params


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedLMTask(Objective):
    """Devlin et al. 2018, arXiv:1810.04805, 3.1; <cls> text <sep>.

    Follows google-research/bert's create_pretraining_data.py; see `Masking`.
    """

    architectures = ("encoder",)
    specials = ("<mask>",)

    @functools.cached_property
    def masking(self) -> Masking:
        """What is predicted of a text."""
        return Masking(self.config, self.vocabulary)

    @functools.cached_property
    def frame(self) -> tuple[np.ndarray, np.ndarray]:
        """<cls> and <sep>, int32 [1] each."""
        cls, sep = (self.vocabulary.special_id(t) for t in ("<cls>", "<sep>"))
        return np.array([cls], np.int32), np.array([sep], np.int32)

    def features(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` as they are read, `targets`, and `weights` 1 where predicted."""
        cls, sep = self.frame
        text = example["tokens"].astype(np.int32)
        return self.masking(np.concatenate([cls, text, sep]), rng)

    def length(self, num_tokens: int) -> int:
        return num_tokens + 2

    def most_predicted(self, T: int) -> int:
        """Of a row of T tokens; only those get logits."""
        if self.run.data.packing in ("chunk", "pad"):
            return min(T, budget(self.config.rate, T))
        return T  # of many texts a row, each at least one token

    def loss(self, model: Any) -> Loss:
        """Metrics: `loss` in nats and, evaluating, `accuracy`, per predicted token."""
        block = model.layout.loss_block

        def loss(params, frozen, extra, batch, rng):
            outputs, router = forward(model, params, batch, rng)
            most = self.most_predicted(batch["tokens"].shape[1])
            total, count_B, metrics = masked_loss(
                outputs, batch, most, block, rng is not None
            )
            count = jnp.sum(count_B)
            total, metrics = routed(model, router, total, count, metrics)
            return total, count, metrics, extra

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest token at every place, int [B, T]."""
        return likeliest(model)


def predicted_places(batch: Batch, most: int) -> tuple[jax.Array, jax.Array]:
    """Where the predictions of each row stand, and what they weigh; int, float [B, P].

    A row of fewer than P = `most` is filled up with places of weight 0.
    """
    weights_BP, places_BP = jax.lax.top_k(token_weights(batch), most)
    return places_BP, weights_BP


def at(x: jax.Array, places_BP: jax.Array) -> jax.Array:
    """[B, T, ..] at `places_BP`: [B, P, ..]."""
    index = places_BP.reshape(*places_BP.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)


def masked_loss(
    outputs: Outputs, batch: Batch, most: int, block: int, training: bool
) -> tuple[jax.Array, jax.Array, Metrics]:
    """What to minimise, a sum; predictions per row, float [B]; and the metrics.

    Args:
      outputs: of all places of `batch`, of which only `most` a row get logits.
    """
    places_BP, weights_BP = predicted_places(batch, most)
    there = dataclasses.replace(outputs, x_BTM=at(outputs.x_BTM, places_BP))
    targets = {"targets": at(batch["targets"], places_BP)}
    total, metrics = token_loss(there, targets, weights_BP, block, training)
    return total, jnp.sum(weights_BP, axis=1), metrics
