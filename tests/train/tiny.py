"""A step of a model of two matrices, which compiles in no time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llmjax.config import LayoutConfig
from llmjax.train import loss_scale
from llmjax.train.state import State, float32
from llmjax.train.step import make_step


def data(step: int, rows: int = 8) -> dict[str, np.ndarray]:
    """What a fixed random net of this kind says of random inputs."""
    rng = np.random.default_rng(step)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    w = np.random.default_rng(99).standard_normal((6, 1)).astype(np.float32)
    return {"x": x, "y": np.tanh(x @ w)[:, 0]}


def loss(dtype: str) -> Any:
    """Squared error of tanh(x in) out, its matmuls in `dtype`."""

    def call(params, frozen, extra, batch, rng):
        w = jax.tree.map(lambda p: p.astype(dtype), params)
        hidden = jnp.tanh(batch["x"].astype(dtype) @ w["in"])
        error = (hidden @ w["out"])[:, 0].astype(jnp.float32) - batch["y"]
        total, count = jnp.sum(error**2), jnp.float32(len(error))
        return total, count, {"loss": (total, count)}, extra

    return call


def start(optimizer: optax.GradientTransformation, layout: LayoutConfig) -> State:
    rng = np.random.default_rng(1)
    params = {
        "in": jnp.float32(0.3 * rng.standard_normal((6, 8))),
        "out": jnp.float32(0.3 * rng.standard_normal((8, 1))),
    }
    params = optax.tree.cast(params, layout.precision.masters)
    extra = {k: v.values for k, v in loss_scale.of(layout.precision).extra.items()}
    opt_state = optimizer.init(float32(params))
    return State(jnp.int32(0), params, {}, extra, opt_state)


def train(
    optimizer: Any, layout: LayoutConfig, batches: Any
) -> tuple[State, list[dict[str, float]]]:
    """The state at the end, and the loss and scalars of each step."""
    optimizer = optax.with_extra_args_support(optimizer)
    scaling = loss_scale.of(layout.precision)
    step = jax.jit(
        make_step(
            scaling.loss(loss(layout.precision.dtype)),
            optimizer,
            layout,
            seed=0,
            accept=scaling.accept,
        )
    )
    state, rows = start(optimizer, layout), []
    for batch in batches:
        state, (metrics, scalars) = step(state, batch)
        row = {name: float(value) for name, value in scalars.items()}
        rows.append(row | {"loss": float(metrics["loss"][0] / 8)})
    return state, rows
