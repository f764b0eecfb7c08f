"""The loss of every task that predicts tokens, and its predictions."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.heads.language import Outputs
from llmjax.tasks.losses import blocked_cross_entropy, blocked_evaluation
from llmjax.tasks.routing import forward, routed
from llmjax.tasks.task import Batch, Loss, Metrics, Params


def token_weights(batch: Batch) -> jax.Array:
    """Float32 [B, T]: what the prediction at each place counts.

    The batch's `weights` where a task gives them, else 1; 0 where padding stands.
    """
    weights_BT = batch.get("weights")
    if weights_BT is None:
        weights_BT = jnp.ones(batch["targets"].shape, jnp.float32)
    segments_BT = batch.get("segment_ids")
    if segments_BT is not None:
        weights_BT = weights_BT * (segments_BT > 0)
    return weights_BT.astype(jnp.float32)


def token_loss(
    outputs: Outputs,
    batch: Batch,
    weights_BT: jax.Array,
    block: int,
    training: bool,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """What to minimise, a sum over the `targets` [B, T] of a batch, and its metrics.

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
        z_loss,
        label_smoothing,
        outputs.softcap,
    )
    if not training:  # where only metrics are read, what is above is never computed
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


def language_loss(
    model: Any, z_loss: float = 0.0, label_smoothing: float = 0.0
) -> Loss:
    """Of a model with `outputs`; see `token_loss`, and the routers' losses beside."""
    block = model.layout.loss_block

    def loss(params, frozen, extra, batch, rng):
        outputs, router = forward(model, params, batch, rng)
        weights_BT = token_weights(batch)
        count = jnp.sum(weights_BT)
        training = rng is not None
        total, metrics = token_loss(
            outputs, batch, weights_BT, block, training, z_loss, label_smoothing
        )
        total, metrics = routed(model, router, total, count, metrics)
        return total, count, metrics, extra

    return loss


def likeliest(model: nn.Module) -> Callable[[Params, Batch], Any]:
    """The likeliest token at every place, int [B, T]."""

    def predict(params, batch):
        logits_BTV, _ = model.apply({"params": params}, batch)
        return jnp.argmax(logits_BTV, axis=-1)

    return predict
