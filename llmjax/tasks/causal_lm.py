"""Causal language modelling: predict each token from those before it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import CausalLM, LayoutConfig, ModelConfig
from llmjax.models.heads import LanguageModel
from llmjax.tasks.losses import blocked_cross_entropy
from llmjax.tasks.routing import forward, routing_loss
from llmjax.tasks.task import Batch, Loss, Params


@dataclasses.dataclass(frozen=True, eq=False)
class CausalLMTask:
    """Radford et al. 2018. A text is <bos> text <eos>; every token is predicted once.

    Attributes:
      bos_id, eos_id: the tokenizer's.
      token_bytes: int [V], the UTF-8 bytes of each token, for bits per byte.
    """

    config: CausalLM
    bos_id: int
    eos_id: int
    token_bytes: np.ndarray

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and, one step ahead, `targets` with their `num_bytes`."""
        text = example["tokens"].astype(np.int32)
        targets = np.append(text, np.int32(self.eos_id))
        return {
            "tokens": np.concatenate([[np.int32(self.bos_id)], text]),
            "targets": targets,
            "num_bytes": self.token_bytes[targets].astype(np.int32),
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + 1

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return LanguageModel(cfg, layout)

    def loss(self, model: nn.Module) -> Loss:
        """Metrics: `loss` in nats per token, `bits_per_byte` of the text."""
        config, layout = self.config, model.layout

        def loss(params, frozen, extra, batch, rng):
            outputs, router = forward(model, params, batch, rng)
            targets_BT = batch["targets"]
            weights_BT = token_weights(batch)
            total, nll = blocked_cross_entropy(
                outputs.x_BTM,
                outputs.table_VM,
                outputs.bias_V,
                targets_BT,
                weights_BT,
                layout.loss_block,
                config.z_loss,
                config.label_smoothing,
                outputs.softcap,
            )
            count = jnp.sum(weights_BT)
            metrics = {"loss": (nll, count)}
            if router:
                balance = routing_loss(model.cfg, router)
                total += balance * count
                metrics["router_loss"] = (balance * count, count)
            if "num_bytes" in batch:
                num_bytes = jnp.sum(batch["num_bytes"] * weights_BT)
                metrics["bits_per_byte"] = (nll / math.log(2), num_bytes)
            return total, count, metrics, extra

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest next token at every position, int [B, T]."""

        def predict(params, batch):
            logits_BTV, _ = model.apply({"params": params}, batch)
            return jnp.argmax(logits_BTV, axis=-1)

        return predict


def token_weights(batch: Batch) -> jax.Array:
    """Float32 [B, T]: 1 where a real token stands, 0 where padding does."""
    segments_BT = batch.get("segment_ids")
    if segments_BT is None:
        return jnp.ones(batch["tokens"].shape, jnp.float32)
    return (segments_BT > 0).astype(jnp.float32)
