"""Causal language modelling: predict each token from those before it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from llmjax.tasks.objectives.language import language_loss, likeliest
from llmjax.tasks.task import Batch, Loss, Objective, Params


@dataclasses.dataclass(frozen=True, eq=False)
class CausalLMTask(Objective):
    """Radford et al. 2018; of <bos> text <eos> every token is predicted once."""

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and, one step ahead, `targets` with their `num_bytes`."""
        vocabulary = self.vocabulary
        text = example["tokens"].astype(np.int32)
        targets = np.append(text, np.int32(vocabulary.eos_id))
        return {
            "tokens": np.concatenate([[np.int32(vocabulary.bos_id)], text]),
            "targets": targets,
            "num_bytes": self.token_bytes[targets],
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + 1

    def loss(self, model: nn.Module) -> Loss:
        return language_loss(model, self.config.z_loss, self.config.label_smoothing)

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest next token at every position, int [B, T]."""
        return likeliest(model)
