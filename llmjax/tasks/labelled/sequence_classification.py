"""Sequence classification: one label per text."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.losses import cross_entropy
from llmjax.tasks.routing import forward, routed
from llmjax.tasks.task import Batch, Loss, Objective, Params


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceClassificationTask(Objective):
    """Needs `data.packing = "pad"`: one text per row, cut at `seq_len`."""

    architectures = ("decoder", "encoder")
    packings = ("pad",)

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` from <bos> on, and the scalar `label`."""
        text = example["tokens"].astype(np.int32)
        return {
            "tokens": np.concatenate([[np.int32(self.vocabulary.bos_id)], text]),
            "label": np.asarray(example["label"], np.int32),
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + 1

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        return SequenceClassifier(cfg, self.config, layout)

    def loss(self, model: nn.Module) -> Loss:
        """Metrics: `loss` in nats and `accuracy`, both per text."""

        def loss(params, frozen, extra, batch, rng):
            logits_BC, router = forward(model, params, batch, rng, "__call__")
            label_B = batch["label"]
            loss_B, nll_B = cross_entropy(
                logits_BC, label_B, label_smoothing=self.config.label_smoothing
            )
            valid_B = batch.get("valid", jnp.ones_like(label_B)).astype(jnp.float32)
            count = jnp.sum(valid_B)
            right_B = jnp.argmax(logits_BC, axis=-1) == label_B
            metrics = {
                "loss": (jnp.sum(nll_B * valid_B), count),
                "accuracy": (jnp.sum(right_B * valid_B), count),
            }
            total = jnp.sum(loss_B * valid_B)
            total, metrics = routed(model, router, total, count, metrics)
            return total, count, metrics, extra

        return loss

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest class of each row, int [B]."""

        def predict(params, batch):
            logits_BC: Any = model.apply({"params": params}, batch)
            return jnp.argmax(logits_BC, axis=-1)

        return predict
