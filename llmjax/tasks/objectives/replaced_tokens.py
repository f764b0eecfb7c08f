"""Replaced token detection: a discriminator of a small generator's samples."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import LayoutConfig, Mixture, ModelConfig
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import forward
from llmjax.models.heads import language
from llmjax.models.heads.replaced_tokens import (
    ReplacedTokenDetector,
    generator_config,
)
from llmjax.tasks.objectives.masked_lm import MaskedLMTask, at, predicted_places
from llmjax.tasks.routing import Routed
from llmjax.tasks.task import Batch, Metrics, Outputs, Variables


@flax.struct.dataclass
class Detection:
    """The outputs of both models for a batch.

    Attributes:
      generator: its outputs at the hidden places.
      tokens_BT: the text with the generator's samples.
      logits_BT: the discriminator's, of that text.
    """

    generator: language.Outputs
    tokens_BT: jax.Array
    logits_BT: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class ReplacedTokensTask(MaskedLMTask):
    """ELECTRA (Clark et al. 2020, arXiv:2003.10555); google-research/electra.

    The generator is a masked LM. Its samples for the hidden tokens, without gradient,
    make the text whose every token the discriminator judges: replaced or original; a
    sample that equals the original is original.
    """

    packings = ("chunk", "pad")
    reads_loss = False  # the discriminator's loss is no cross entropy over classes

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

    def outputs(self, model: nn.Module) -> Outputs:
        """In evaluation a row's samples are a function of the row."""
        block, temperature = self.run.layout.loss_block, self.config.temperature

        def outputs(variables, batch, rng):
            places_BP, weights_BP = self._places(batch)
            keys = _keys(batch, rng)
            generator, _ = forward(
                model, variables, batch, places_BP, rng=keys[0], method="generate"
            )
            samples_BP = sample(generator, keys[2], temperature, block)
            fake = written(batch, places_BP, weights_BP, samples_BP)
            logits_BT, _ = forward(model, variables, fake, rng=keys[1])
            return Routed(Detection(generator, fake["tokens"], logits_BT))

        return outputs

    def score(
        self, outputs: Routed, batch: Batch, training: bool = False
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """The generator's mean loss, and `loss_weight` times the discriminator's.

        So that microbatches add up, the discriminator's mean over a row counts as often
        as tokens of that row are predicted.

        Metrics, per predicted token: `loss`, that sum; `generator_loss` in nats and,
        evaluating, the generator's `accuracy`. Per token: `detection_loss`,
        `detection_accuracy`, and `replaced`, the share of replaced tokens.
        """
        detected: Detection = outputs.head
        places_BP, weights_BP = self._places(batch)
        targets = {"targets": at(batch["targets"], places_BP)}
        total, metrics = self.token_loss(
            detected.generator, targets, weights_BP, training
        )
        metrics["generator_loss"] = metrics["loss"]
        detection_B, real_B, own = detection(
            detected.logits_BT, detected.tokens_BT, batch
        )
        count_B = jnp.sum(weights_BP, axis=1)
        share_B = count_B / jnp.maximum(real_B, 1)
        total += self.config.loss_weight * jnp.sum(detection_B * share_B)
        count = jnp.sum(count_B)
        return total, count, {**metrics, **own, "loss": (total, count)}

    def predict(self, model: nn.Module) -> Callable[[Variables, Batch], Any]:
        """Whether each of `tokens` looks replaced, bool [B, T]."""

        def predict(variables, batch):
            logits_BT, _ = forward(model, variables, batch)
            return logits_BT > 0

        return predict

    def decode(self, values: Any, corpus: Corpus | None) -> list[Any]:
        return [row.tolist() for row in values]

    def _places(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The hidden places and their weights, [B, P] each."""
        most = self.max_predictions(batch["tokens"].shape[1])
        return predicted_places(batch, most)


def _keys(
    batch: Batch, rng: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None, jax.Array]:
    """Keys of the generator's dropout, the discriminator's, and each row's sample."""
    B, T = batch["targets"].shape
    if rng is not None:
        generator, discriminator, rows = jax.random.split(rng, 3)
        return generator, discriminator, jax.random.split(rows, B)
    # may wrap round: any number that depends on the text will do
    texts_B = jnp.sum(batch["targets"] * (2 * jnp.arange(T) + 1), axis=1)
    key = jax.random.key(0)
    return None, None, jax.vmap(lambda i: jax.random.fold_in(key, i))(texts_B)


def sample(
    outputs: language.Outputs, keys_B: jax.Array, temperature: float, block: int
) -> jax.Array:
    """Tokens of softmax(logits / temperature), int [B, P], without gradient.

    By Gumbel noise (`jax.random.categorical`), for `block` places of each row at a
    time.
    """
    x_BPM = jax.lax.stop_gradient(outputs.x_BTM)
    P = x_BPM.shape[1]
    samples = []
    for i, start in enumerate(range(0, P, block)):
        part = dataclasses.replace(outputs, x_BTM=x_BPM[:, start : start + block])
        logits_BPV = jax.lax.stop_gradient(part.logits()) / temperature
        keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys_B)
        samples.append(jax.vmap(jax.random.categorical)(keys, logits_BPV))
    return jnp.concatenate(samples, axis=1)


def written(
    batch: Batch, places_BP: jax.Array, weights_BP: jax.Array, samples_BP: jax.Array
) -> dict[str, Any]:
    """The batch with the original `tokens`, replaced by samples where predicted."""
    targets_BT = batch["targets"]
    new_BP = jnp.where(weights_BP > 0, samples_BP, at(targets_BT, places_BP))
    rows_B1 = jnp.arange(targets_BT.shape[0])[:, None]
    tokens_BT = targets_BT.at[rows_B1, places_BP].set(new_BP.astype(targets_BT.dtype))
    return {**batch, "tokens": tokens_BT}


def detection(
    logits_BT: jax.Array, tokens_BT: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array, Metrics]:
    """The discriminator's summed loss and the real tokens of each row [B]; metrics."""
    replaced_BT = tokens_BT != batch["targets"]
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
