"""Replaced token detection: a discriminator of what a small generator wrote."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, Mixture, ModelConfig
from llmjax.models.heads.language import Outputs
from llmjax.models.heads.replaced_tokens import (
    ReplacedTokenDetector,
    generator_config,
)
from llmjax.tasks.objectives.language import token_loss
from llmjax.tasks.objectives.masked_lm import MaskedLMTask, at, predicted_places
from llmjax.tasks.task import Batch, Loss, Params, rngs


@dataclasses.dataclass(frozen=True, eq=False)
class ReplacedTokensTask(MaskedLMTask):
    """ELECTRA (Clark et al. 2020, arXiv:2003.10555); google-research/electra.

    The generator is a masked LM. Its samples for the hidden tokens, without gradient,
    make the text whose every token the discriminator judges: replaced or original; a
    sample that equals the original is original.
    """

    packings = ("chunk", "pad")

    def check(self) -> None:
        """Raises ValueError for a model that has no small copy."""
        cfg = self.run.model
        generator_config(cfg, self.config.generator_size)
        specs = [spec for group in cfg.layers for spec in group.pattern]
        if any(isinstance(cfg.layer_mlp(spec)[0], Mixture) for spec in specs):
            raise ValueError(
                "task 'replaced_tokens' scales a model to its generator, and "
                "model.mlp.kind='mixture' can't be; use 'gated' or 'plain'"
            )

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return ReplacedTokenDetector(cfg, layout, self.config.generator_size)

    def loss(self, model: Any) -> Loss:
        """The generator's mean loss, and `loss_weight` times the discriminator's.

        So that microbatches add up, the discriminator's mean over a row counts as often
        as tokens of that row are predicted. In evaluation a row's samples are a
        function of the row.

        Metrics, per predicted token: `loss`, that sum; `generator_loss` in nats and,
        evaluating, the generator's `accuracy`. Per token: `detection_loss`,
        `detection_accuracy`, and `replaced`, how many are.
        """
        block, config = model.layout.loss_block, self.config

        def loss(params, frozen, extra, batch, rng):
            most = self.most_predicted(batch["tokens"].shape[1])
            places_BP, weights_BP = predicted_places(batch, most)
            keys = _keys(batch, rng)
            outputs = model.apply(
                {"params": params},
                batch,
                places_BP,
                rngs=rngs(keys[0]),
                method="generate",
            )
            targets = {"targets": at(batch["targets"], places_BP)}
            total, metrics = token_loss(
                outputs, targets, weights_BP, block, rng is not None
            )
            metrics["generator_loss"] = metrics["loss"]
            samples_BP = sample(outputs, keys[2], config.temperature, block)
            fake = written(batch, places_BP, weights_BP, samples_BP)
            logits_BT = model.apply({"params": params}, fake, rngs=rngs(keys[1]))
            detection_B, real_B, found = detection(logits_BT, fake, batch)
            count_B = jnp.sum(weights_BP, axis=1)
            share_B = count_B / jnp.maximum(real_B, 1)
            total += config.loss_weight * jnp.sum(detection_B * share_B)
            count = jnp.sum(count_B)
            metrics = {**metrics, **found, "loss": (total, count)}
            return total, count, metrics, extra

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """Which `tokens` look replaced, bool [B, T]."""

        def predict(params, batch):
            logits_BT: Any = model.apply({"params": params}, batch)
            return logits_BT > 0

        return predict


def _keys(
    batch: Batch, rng: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None, jax.Array]:
    """For dropout in the generator and in the discriminator, and a row's sample [B]."""
    B, T = batch["targets"].shape
    if rng is not None:
        generator, discriminator, rows = jax.random.split(rng, 3)
        return generator, discriminator, jax.random.split(rows, B)
    # wraps round: any number that hangs on the text will do
    texts_B = jnp.sum(batch["targets"] * (2 * jnp.arange(T) + 1), axis=1)
    key = jax.random.key(0)
    return None, None, jax.vmap(lambda i: jax.random.fold_in(key, i))(texts_B)


def sample(
    outputs: Outputs, keys_B: jax.Array, temperature: float, block: int
) -> jax.Array:
    """Tokens of softmax(logits / temperature), int [B, P], without gradient.

    By Gumbel noise (`jax.random.categorical`), for `block` places a row at a time.
    """
    x_BPM = jax.lax.stop_gradient(outputs.x_BTM)
    P = x_BPM.shape[1]
    found = []
    for i, start in enumerate(range(0, P, block)):
        part = dataclasses.replace(outputs, x_BTM=x_BPM[:, start : start + block])
        logits_BPV = jax.lax.stop_gradient(part.logits()) / temperature
        keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys_B)
        found.append(jax.vmap(jax.random.categorical)(keys, logits_BPV))
    return jnp.concatenate(found, axis=1)


def written(
    batch: Batch, places_BP: jax.Array, weights_BP: jax.Array, samples_BP: jax.Array
) -> dict[str, Any]:
    """The batch whose `tokens` are the original but for samples where predicted."""
    targets_BT = batch["targets"]
    new_BP = jnp.where(weights_BP > 0, samples_BP, at(targets_BT, places_BP))
    rows_B1 = jnp.arange(targets_BT.shape[0])[:, None]
    tokens_BT = targets_BT.at[rows_B1, places_BP].set(new_BP.astype(targets_BT.dtype))
    return {**batch, "tokens": tokens_BT}


def detection(
    logits_BT: jax.Array, fake: Batch, batch: Batch
) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """The discriminator's summed loss and the real tokens of each row [B]; metrics."""
    replaced_BT = fake["tokens"] != batch["targets"]
    segments_BT = batch.get("segment_ids", jnp.ones_like(batch["targets"]))
    real_BT = (segments_BT > 0).astype(jnp.float32)
    nll_BT = jax.nn.softplus(logits_BT) - logits_BT * replaced_BT
    loss_B, real_B = jnp.sum(nll_BT * real_BT, axis=1), jnp.sum(real_BT, axis=1)
    count = jnp.sum(real_B)
    right_BT = (logits_BT > 0) == replaced_BT
    return (
        loss_B,
        real_B,
        {
            "detection_loss": (jnp.sum(loss_B), count),
            "detection_accuracy": (jnp.sum(right_BT * real_BT), count),
            "replaced": (jnp.sum(replaced_BT * real_BT), count),
        },
    )
