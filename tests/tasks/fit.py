"""A few optimizer steps on one batch, in one compiled loop."""

from typing import Any

import jax
import optax

from llmjax.tasks.task import Loss


def fit(loss: Loss, params: Any, batch: Any, steps: int) -> tuple[Any, Any, Any]:
    """Weights after `steps` of Adam, and the metrics before and after them."""
    optimizer = optax.adam(1e-2)

    def mean(params):
        total, count, *_ = loss(params, {}, {}, batch, jax.random.key(0))
        return total / count

    def step(_, carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(mean)(params), state)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def run(params):
        return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]

    evaluate = jax.jit(lambda params: loss(params, {}, {}, batch, None)[2])
    fitted = run(params)
    return fitted, evaluate(params), evaluate(fitted)
