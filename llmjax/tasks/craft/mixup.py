"""Mixup of the vectors that a head scores; see `llmjax.config.Mixup`."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import Mixup
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.task import Batch, Composed, Loss

SHARE = 2**32 - 4  # place of its draws among a microbatch's keys


class Partners(NamedTuple):
    """Which text each of a batch is mixed with.

    Attributes:
      share: float32 scalar, of its own vector.
      place_N: the partner's place among all texts of the batch.
      there_N: whether it is a text; one that is not leaves its text as it is.
    """

    share: jax.Array
    place_N: jax.Array
    there_N: jax.Array

    def of(self, x: jax.Array, texts: int) -> jax.Array:
        """The partners' values of an array whose first `texts` axes are of texts."""
        flat = x.reshape(-1, *x.shape[texts:])
        there = self.there_N.reshape(-1, *[1] * (flat.ndim - 1))
        return jnp.where(there, flat[self.place_N], flat).reshape(x.shape)


def partners(batch: Batch, alpha: float, key: jax.Array) -> Partners:
    """A share for the batch, and its texts in a random order.

    Args:
      batch: with `valid`, [B] or [B, G], or one label for each row.
      alpha: of Beta(alpha, alpha).
      key: of the draws.
    """
    of_share, of_order = jax.random.split(key)
    valid = batch.get("valid", jnp.ones(len(batch["label"]))).reshape(-1)
    place_N = jax.random.permutation(of_order, len(valid))
    share = jax.random.beta(of_share, alpha, alpha)
    return Partners(share, place_N, valid[place_N] > 0)


def mixup(loss: Composed, config: Mixup) -> Loss:
    """The loss of mixed vectors, of both labels by their shares.

    Metrics: the task's own, of the text's own label.
    """

    def call(params, frozen, extra, batch, rng):
        if rng is None:
            return loss(params, frozen, extra, batch, rng)
        pairs = partners(batch, config.alpha, jax.random.fold_in(rng, SHARE))

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            own = isinstance(context.module, SequenceClassifier)
            if not own or context.method_name != "scores":
                return call(*args, **kwargs)
            (x_BGD,) = args
            share = pairs.share.astype(x_BGD.dtype)
            return call(share * x_BGD + (1 - share) * pairs.of(x_BGD, 2))

        with nn.intercept_methods(intercept):
            outputs = loss.outputs(params, frozen, batch, rng)
        texts = max(batch["valid"].ndim if "valid" in batch else 1, 1)
        other = {**batch, "label": pairs.of(batch["label"], texts)}
        total, count, metrics = loss.score(outputs, batch, training=True)
        total_2, count_2, _ = loss.score(outputs, other, training=True)
        share = pairs.share
        total = share * total + (1 - share) * total_2
        return total, share * count + (1 - share) * count_2, metrics, extra

    return call
