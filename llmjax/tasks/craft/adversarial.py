"""Adversarial training: a text's vectors are moved to where its loss is larger.

The gradient of the vectors comes from a backward pass of its own, with the weights
held, so that the wrapped loss is one like any other: of microbatches, of packed rows,
in any precision. A step costs about as many plain ones as it has ascents, and one more.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import FGM, PGD, FreeLB
from llmjax.tasks.craft.perturbation import Deltas, Lookup, perturbed, seen, step
from llmjax.tasks.task import Batch, Composed, Loss, Params


def gradient(
    loss: Composed, params: Params, frozen: Any, batch: Batch, rng: Any, deltas: Deltas
) -> Deltas:
    """The gradient of the summed loss by each lookup's vectors."""
    held = jax.lax.stop_gradient(params)

    def total(deltas: Deltas) -> jax.Array:
        outputs = perturbed(loss, held, frozen, batch, rng, deltas)
        return loss.score(outputs, batch, training=True)[0]

    return jax.grad(total)(deltas)


def ascended(
    config: FGM | PGD, lookups: list[Lookup], gradient: Callable[[Deltas], Deltas]
) -> Deltas:
    """The perturbations after the ascent of FGM or PGD; without a gradient."""
    size, steps = config.radius, 1
    if isinstance(config, PGD):
        size, steps = config.step_size, config.steps
    deltas = tuple(jnp.zeros_like(lookup.x_BTM) for lookup in lookups)
    for _ in range(steps):
        deltas = step(lookups, gradient(deltas), deltas, size, config.radius)
    return jax.lax.stop_gradient(deltas)


def adversarial(loss: Composed, config: FGM | PGD) -> Loss:
    """The plain loss and `weight` times that of perturbed texts.

    Metrics: the task's own of the plain texts, and `adversarial_loss`.
    """

    def call(params, frozen, extra, batch, rng):
        if rng is None:
            return loss(params, frozen, extra, batch, rng)
        outputs, lookups = seen(loss, params, frozen, batch, rng)
        total, count, metrics = loss.score(outputs, batch, training=True)
        arguments = params, frozen, batch, rng
        slope = functools.partial(gradient, loss, *arguments)
        deltas = ascended(config, lookups, slope)
        moved = perturbed(loss, *arguments, deltas)
        worse, *_ = loss.score(moved, batch, training=True)
        metrics = {**metrics, "adversarial_loss": (worse, count)}
        return total + config.weight * worse, count, metrics, extra

    return call


def free_lb(loss: Composed, config: FreeLB) -> Loss:
    """The mean loss over an ascent from a random perturbation.

    Metrics: the task's own of the first perturbation, and `adversarial_loss` of the
    last.
    """

    def call(params, frozen, extra, batch, rng):
        if rng is None:
            return loss(params, frozen, extra, batch, rng)
        _, lookups = seen(loss, jax.lax.stop_gradient(params), frozen, batch, rng)
        deltas = first(config, lookups, jax.random.fold_in(rng, FIRST))

        # the activations of one ascent are held at a time
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def scored(params, deltas):
            outputs = perturbed(loss, params, frozen, batch, rng, deltas)
            return loss.score(outputs, batch, training=True)

        def body(deltas, _):
            sums = scored(params, deltas)
            grads = gradient(loss, params, frozen, batch, rng, deltas)
            deltas = step(lookups, grads, deltas, config.step_size, config.radius)
            return jax.lax.stop_gradient(deltas), sums

        _, (totals, counts, metrics) = jax.lax.scan(body, deltas, length=config.steps)
        metrics = jax.tree.map(lambda x: x[0], metrics)
        metrics = {**metrics, "adversarial_loss": (totals[-1], counts[0])}
        return jnp.mean(totals), counts[0], metrics, extra

    return call


FIRST = 2**32 - 2  # place of the first perturbation's draw among a microbatch's keys


def first(config: FreeLB, lookups: list[Lookup], key: jax.Array) -> Deltas:
    """Uniform entries, as in the authors' code: up to `init` over the root of how many
    a text has."""
    keys = jax.random.split(key, len(lookups))
    return tuple(
        lookup.real(
            jax.random.uniform(k, lookup.x_BTM.shape, minval=-1.0, maxval=1.0)
            * config.init
            / jnp.sqrt(jnp.maximum(lookup.size(), 1.0))
        )
        for k, lookup in zip(keys, lookups, strict=True)
    )
