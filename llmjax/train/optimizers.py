"""One optax chain from an `OptimizerConfig`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from llmjax.config import (
    SGD,
    Adafactor,
    AdamW,
    Constant,
    Lion,
    Muon,
    OptimizerConfig,
    WarmupCosine,
)

NOT_DECAYED = ("bias", "scale", "log_scale")


def schedule(config: OptimizerConfig, steps: int) -> Callable[[Any], jax.Array]:
    """Learning rate of the update that follows `step` updates, of `steps` in all.

    Warm-up reaches the peak after `warmup_steps` updates and begins above zero.
    """
    kind, peak = config.schedule, config.learning_rate
    warmup = min(kind.warmup_steps, steps)
    decay_steps = max(steps - warmup, 1)
    if isinstance(kind, Constant):
        after = optax.constant_schedule(peak)
    elif isinstance(kind, WarmupCosine):
        after = optax.cosine_decay_schedule(peak, decay_steps, kind.final)
    else:
        after = optax.linear_schedule(peak, peak * kind.final, decay_steps)
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def make(
    config: OptimizerConfig, steps: int, axes: Any
) -> optax.GradientTransformationExtraArgs:
    """Clip, algorithm, decay, learning rate, average of the weights: one chain.

    Args:
      config: what to chain.
      steps: of the whole run, for the schedule.
      axes: the logical axes of every weight; leaves stacked over `L` are handled layer
        by layer wherever an algorithm looks at a leaf as a whole.
    """
    chain = []
    if config.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(config.clip_norm))
    chain.append(_algorithm(config.algorithm, axes))
    if config.weight_decay:
        mask = decayed if config.decay == "matrices" else None
        chain.append(optax.add_decayed_weights(config.weight_decay, mask))
    chain.append(optax.scale_by_learning_rate(schedule(config, steps)))
    if config.ema is not None:
        chain.append(average_weights(config.ema))
    return optax.with_extra_args_support(optax.chain(*chain))


def decayed(params: Any) -> Any:
    """True for the weights that decay: all but norms, biases and score scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in NOT_DECAYED, params
    )


def _algorithm(config: Any, axes: Any) -> optax.GradientTransformation:
    if isinstance(config, AdamW):
        return optax.scale_by_adam(config.b1, config.b2, config.eps)
    if isinstance(config, Lion):
        return optax.scale_by_lion(config.b1, config.b2)
    if isinstance(config, Muon):
        return _muon(config, axes)
    if isinstance(config, SGD):
        return optax.trace(config.momentum)
    assert isinstance(config, Adafactor)
    adafactor = optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=config.decay_rate,
            min_dim_size_to_factor=config.min_dim_size_to_factor,
        ),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    return per_layer(adafactor, axes)


def _muon(config: Muon, axes: Any) -> optax.GradientTransformation:
    """Orthogonalised updates for the layers' matrices, Adam for the rest.

    A kernel's axes say which of its dimensions a matrix multiplies: those on the side
    of `D`; `L` counts matrices.
    """
    named = jax.tree_util.tree_leaves_with_path(
        axes, is_leaf=lambda x: isinstance(x, tuple)
    )
    numbers = {
        jax.tree_util.keystr(path): _matrix(leaf_axes)
        for path, leaf_axes in named
        if leaf_axes[:1] == ("L",) and path[-1].key == "kernel"
    }

    def label(params):
        return jax.tree_util.tree_map_with_path(
            lambda p, _: "muon" if jax.tree_util.keystr(p) in numbers else "adam",
            params,
        )

    def dimensions(updates):
        return jax.tree_util.tree_map_with_path(
            lambda p, _: numbers[jax.tree_util.keystr(p)], updates
        )

    def rms_of_adam(update, number):
        fan_in = math.prod(update.shape[i] for i in number.reduction_axis)
        fan_out = math.prod(update.shape[i] for i in number.output_axis)
        return 0.2 * max(fan_in, fan_out) ** 0.5 * update

    muon = optax.contrib.scale_by_muon(
        ns_steps=config.newton_schulz_steps,
        beta=config.momentum,
        weight_dimension_numbers=dimensions,
    )
    scale = optax.stateless(
        lambda updates, _: jax.tree.map(rms_of_adam, updates, dimensions(updates))
    )
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return optax.partition({"muon": optax.chain(muon, scale), "adam": adam}, label)


def _matrix(axes: tuple[str, ...]) -> optax.contrib.MuonDimensionNumbers:
    inputs = (1,) if axes[1] == "D" else tuple(range(1, len(axes) - 1))
    outputs = tuple(i for i in range(1, len(axes)) if i not in inputs)
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


class PerLayerState(NamedTuple):
    """The state of `per_layer`: of the leaves that stand alone, and of the stacked."""

    single: Any
    stacked: dict[str, Any]


def per_layer(
    transform: optax.GradientTransformation, axes: Any
) -> optax.GradientTransformation:
    """Applies `transform` to leaves stacked over `L` as if each layer were a leaf.

    So that scanned equals unrolled for whatever takes a norm or factors per leaf.

    Args:
      transform: any optax transform.
      axes: the tree of logical axes, to know the stacked leaves (axis 0 is `L`).
    """
    flat_axes = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))

    def split(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        single: dict[str, Any] = {}
        stacked: dict[str, dict[str, Any]] = {}
        for (path, leaf), leaf_axes in zip(leaves, flat_axes, strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if leaf_axes[:1] == ("L",):
                stacked.setdefault(str(leaf.shape[0]), {})[name] = leaf
            else:
                single[name] = leaf
        return single, stacked

    def join(tree, single, stacked):
        flat = dict(single)
        for group in stacked.values():
            flat |= group
        paths = jax.tree_util.tree_leaves_with_path(tree)
        names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths]
        return jax.tree.unflatten(jax.tree.structure(tree), [flat[n] for n in names])

    def init(params):
        single, stacked = split(params)
        return PerLayerState(
            transform.init(single),
            {n: jax.vmap(transform.init)(group) for n, group in stacked.items()},
        )

    def update(updates, state, params=None):
        single, stacked = split(updates)
        single_params, stacked_params = split(params)
        single, single_state = transform.update(single, state.single, single_params)
        states = {}
        for n, group in stacked.items():
            stacked[n], states[n] = jax.vmap(transform.update)(
                group, state.stacked[n], stacked_params[n]
            )
        return join(updates, single, stacked), PerLayerState(single_state, states)

    return optax.GradientTransformation(init, update)


class AverageState(NamedTuple):
    """The state of `average_weights`."""

    average: Any


def average_weights(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential average of the weights; the last of a chain.

    Polyak & Juditsky 1992; average <- decay * average + (1 - decay) * new weights,
    beginning with the initial weights. `averaged` reads it.
    """

    def init(params):
        return AverageState(jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None):
        new = optax.apply_updates(params, updates)
        average = optax.incremental_update(new, state.average, 1 - decay)
        return updates, AverageState(average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, params: Any) -> Any:
    """The averaged weights if the chain keeps them, else `params`."""
    states = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, AverageState))
    found = [s.average for s in states if isinstance(s, AverageState)]
    return found[0] if found else params
