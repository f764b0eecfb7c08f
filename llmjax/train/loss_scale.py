"""Dynamic loss scaling: float16's small gradients kept, its overflows skipped."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import Float16, LossScale, Precision
from llmjax.tasks.task import Loss
from llmjax.train.state import State, WithAxes

KEY = "loss_scale"  # in `State.extra`
FLOOR = 1.0  # where lowering it helps no more: the gradients themselves overflow
CEILING = 2.0**24


@flax.struct.dataclass
class Scale:
    """The dynamic scale, in `State.extra`.

    Attributes:
      value: float32, factor of the mean token's loss.
      good: int32, updates since it last changed.
      skipped: int32, updates skipped since the run began.
    """

    value: Any
    good: Any
    skipped: Any


def initial(config: LossScale) -> dict[str, Scale]:
    """The scale at step 0, by its name in `State.extra`."""
    zero = jnp.zeros((), jnp.int32)
    return {KEY: Scale(jnp.float32(config.initial), zero, zero)}


def factor(extra: Any, count: jax.Array) -> jax.Array:
    """Factor of the summed loss: scale / count."""
    return extra[KEY].value / jnp.maximum(count, 1)


def scaled(loss: Loss) -> Loss:
    """`loss` with a backward pass on a larger scale; its gradient is not scaled.

    The scale is taken off where the gradient leaves the loss, in float32, so that any
    estimator (one that clips the gradient of each example) sees the true one.
    """

    @jax.custom_vjp
    def call(params, frozen, extra, batch, rng):
        return loss(params, frozen, extra, batch, rng)

    def forward(params, frozen, extra, batch, rng):
        def total_of(params):
            total, *rest = loss(params, frozen, extra, batch, rng)
            return total, rest

        total, pullback, (count, metrics, new) = jax.vjp(total_of, params, has_aux=True)
        return (total, count, metrics, new), (pullback, factor(extra, count))

    def backward(residuals, cotangents):
        pullback, scale = residuals
        (grads,) = pullback(cotangents[0] * scale)
        return jax.tree.map(lambda g: g / scale, grads), None, None, None, None

    call.defvjp(forward, backward)
    return call


Accept = Callable[[State, State, Any, Any], tuple[State, Any, Any]]


def accept_all(old: State, new: State, grads: Any, out: Any) -> tuple[State, Any, Any]:
    """Every update as it is."""
    return new, grads, out


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The parts of a step that depend on the precision.

    Attributes:
      loss: wrapper of what is differentiated.
      accept: what of an update is kept; see `checked`.
      extra: for `State.extra`.
    """

    loss: Callable[[Loss], Loss]
    accept: Accept
    extra: dict[str, WithAxes]


def of(precision: Precision) -> Scaling:
    """The scaling of a precision; only float16 has one."""
    if not isinstance(precision, Float16):
        return Scaling(lambda loss: loss, accept_all, {})
    config = precision.loss_scale
    extra = {name: WithAxes(scale) for name, scale in initial(config).items()}
    return Scaling(scaled, functools.partial(checked, config=config), extra)


def checked(
    old: State, new: State, grads: Any, out: Any, config: LossScale
) -> tuple[State, Any, Any]:
    """Keeps an update whose gradients are finite; else advances `step` alone.

    After an overflow the scale is halved, gradients and their norm are 0, and so are
    sum and count of those metrics that are not finite. At the floor of the scale the
    norm stays as it is, for the log to end the run.

    Args:
      old, new: the states before and after.
      grads: of the update, no longer scaled.
      out: its metrics and scalars, `grad_norm` among them.
      config: how the scale grows.

    Returns:
      The state, gradients, metrics and scalars that follow.
    """
    metrics, scalars = out
    finite = jnp.isfinite(scalars["grad_norm"])
    scale = old.extra[KEY]
    after = adjusted(scale, finite, config)

    def kept(new, old):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    hopeless = ~finite & (after.value == scale.value)
    norm = jnp.where(finite | hopeless, scalars["grad_norm"], 0)
    state = dataclasses.replace(
        new,
        params=kept(new.params, old.params),
        opt_state=kept(new.opt_state, old.opt_state),
        extra=kept(new.extra, old.extra) | {KEY: after},
    )
    grads = jax.tree.map(lambda g: jnp.where(finite, g, 0), grads)
    scalars = {"grad_norm": norm, "loss_scale": scale.value, "skipped": after.skipped}
    return state, grads, (_readable(metrics, finite | hopeless), scalars)


def adjusted(scale: Scale, finite: jax.Array, config: LossScale) -> Scale:
    """Doubled after `growth_interval` finite updates, halved after one that is not."""
    good = jnp.where(finite, scale.good + 1, 0)
    grow = good >= config.growth_interval
    lower = jnp.maximum(scale.value / 2, jnp.minimum(FLOOR, scale.value))
    upper = jnp.minimum(scale.value * 2, jnp.maximum(CEILING, scale.value))
    value = jnp.where(finite, jnp.where(grow, upper, scale.value), lower)
    good = jnp.where(grow, 0, good)
    return Scale(value, good, scale.skipped + jnp.where(finite, 0, 1))


def _readable(metrics: Any, always: jax.Array) -> Any:
    """Metrics with (0, 0) where they are not finite, unless `always` is set."""

    def clean(pair):
        usable = always | (jnp.isfinite(pair[0]) & jnp.isfinite(pair[1]))
        return tuple(jnp.where(usable, x, 0) for x in pair)

    return {name: clean(pair) for name, pair in metrics.items()}
