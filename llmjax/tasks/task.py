"""What a task is: features on the host, a loss and predictions on the device."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from llmjax.config import LayoutConfig, ModelConfig

Batch = Mapping[str, Any]
Params = Any
# name -> (sum, count); what is printed is sum / count, once, at the end
Metrics = dict[str, tuple[jax.Array, jax.Array]]
# (params, frozen, extra, batch, rng or None) -> (sum, count, metrics, extra)
Loss = Callable[
    [Params, Any, Any, Batch, jax.Array | None],
    tuple[jax.Array, jax.Array, Metrics, Any],
]


@runtime_checkable
class Task(Protocol):
    """Pretraining objectives and fine-tuning tasks alike."""

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Of one example: arrays along the sequence, and scalars (padded rows only)."""

    def length(self, num_tokens: int) -> int:
        """The length of the features of a text of `num_tokens` tokens."""

    def model(self, cfg: ModelConfig, layout: LayoutConfig) -> nn.Module:
        """A Transformer with this task's head; its input is a batch."""

    def loss(self, model: nn.Module) -> Loss:
        """The sum and count to minimise; with an rng, dropout is on."""

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """What the model says of a batch."""


def rngs(rng: jax.Array | None) -> dict[str, jax.Array]:
    """The named streams of `apply`; none at evaluation."""
    return {} if rng is None else {"dropout": rng}
