"""Tasks that predict tokens: their score over blocked logits, and predictions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LossConfig
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads import language
from llmjax.tasks.losses import blocked_cross_entropy, blocked_evaluation
from llmjax.tasks.routing import Routed, routed, with_routing
from llmjax.tasks.task import Batch, Metrics, Objective, Outputs, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageObjective(Objective):
    """The score of all `targets` [B, T] of a batch; see `token_loss`."""

    def outputs(self, model: nn.Module) -> Outputs:
        return routed(model, "outputs")

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        weights_BT = token_weights(batch)
        total, metrics = self.token_loss(outputs.head, batch, weights_BT, training)
        return with_routing(outputs, total, jnp.sum(weights_BT), metrics)

    def token_loss(
        self,
        outputs: language.Outputs,
        batch: Batch,
        weights_BT: jax.Array,
        training: bool,
    ) -> tuple[jax.Array, Metrics]:
        """The run's `token_loss`: its `layout.loss_block` and `loss`."""
        block, loss = self.run.layout.loss_block, self.run.loss
        return token_loss(outputs, batch, weights_BT, block, training, loss)

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """The likeliest token at every position, int [B, T]."""

        def predict(variables, batch):
            (logits_BTV, _), _ = forward(model, variables, batch)
            return jnp.argmax(logits_BTV, axis=-1)

        return predict

    def decode(self, values: Any, corpus: Corpus | None) -> list[Any]:
        assert corpus is not None
        return [corpus.tokenizer.decode(row) for row in values]


def token_weights(batch: Batch) -> jax.Array:
    """The weight of the prediction at each position, float32 [B, T].

    The batch's `weights` where a task has them, else 1; 0 at padding.
    """
    weights_BT = batch.get("weights")
    if weights_BT is None:
        weights_BT = jnp.ones(batch["targets"].shape, jnp.float32)
    segments_BT = batch.get("segment_ids")
    if segments_BT is not None:
        weights_BT = weights_BT * (segments_BT > 0)
    return weights_BT.astype(jnp.float32)


def token_loss(
    outputs: language.Outputs,
    batch: Batch,
    weights_BT: jax.Array,
    block: int,
    training: bool,
    loss: LossConfig,
) -> tuple[jax.Array, Metrics]:
    """The sum to minimise over the `targets` [B, T] of a batch, and its metrics.

    Metrics: `loss` in nats per token; `bits_per_byte` where the batch has `num_bytes`;
    when not training also `accuracy`.
    """
    targets_BT, count = batch["targets"], jnp.sum(weights_BT)
    output = outputs.x_BTM, outputs.table_VM, outputs.bias_V
    metrics: Metrics = {}
    total, nll = blocked_cross_entropy(
        *output,
        targets_BT,
        weights_BT,
        block,
        loss.z_loss,
        loss.label_smoothing,
        outputs.softcap,
    )
    if not training:  # an evaluation reads metrics alone: XLA drops the sum above
        nll_B, right_B = blocked_evaluation(
            *output, targets_BT, weights_BT, block, outputs.softcap
        )
        nll = jnp.sum(nll_B)
        metrics["accuracy"] = (jnp.sum(right_B), count)
    metrics["loss"] = (nll, count)
    if "num_bytes" in batch:
        num_bytes = jnp.sum(batch["num_bytes"] * weights_BT)
        metrics["bits_per_byte"] = (nll / math.log(2), num_bytes)
    return total, metrics
