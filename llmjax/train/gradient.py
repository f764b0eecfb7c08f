"""How a loss's gradient is computed: an argument of the step."""

from collections.abc import Callable
from typing import Any

import jax

from llmjax.tasks.task import Batch, Loss, Metrics, Params

# (params, frozen, extra, batch, rng) -> (gradient of the sum, count, metrics, extra)
Gradient = Callable[
    [Params, Any, Any, Batch, jax.Array], tuple[Params, jax.Array, Metrics, Any]
]
# The step divides the gradient by the count: that of the batch, of all microbatches.
GradientEstimator = Callable[[Loss], Gradient]


def value_and_grad(loss: Loss) -> Gradient:
    """The gradient of the sum over all examples at once, by `jax.value_and_grad`."""

    def gradient(params, frozen, extra, batch, rng):
        def total_of(params):
            total, *rest = loss(params, frozen, extra, batch, rng)
            return total, rest

        (_, rest), grads = jax.value_and_grad(total_of, has_aux=True)(params)
        count, metrics, extra = rest
        return grads, count, metrics, extra

    return gradient
