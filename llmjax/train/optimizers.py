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

BALANCE = "balance"  # what moves by its gradient alone: a router's bias of the choice
LAYER_AXES = {"L", "E", "D", "F", "N", "K", "H", "R"}  # of the matrices in a layer
VECTORS = ("sinks", "query_stream", BALANCE)


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

    Leaves named `balance` stand apart: their gradient is their move (`router_loss`),
    they take p - g, and no norm counts them.

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
    leaves = jax.tree_util.tree_leaves_with_path(axes, is_leaf=_is_axes)
    if any(path[-1].key == BALANCE for path, _ in leaves):
        parts = {"weights": optax.chain(*chain), BALANCE: optax.scale(-1.0)}
        chain = [optax.partition(parts, _parts)]
    if config.ema is not None:
        chain.append(average_weights(config.ema))
    return optax.with_extra_args_support(optax.chain(*chain))


def decayed(params: Any) -> Any:
    """True for the weights that decay: kernels and tables, no bias, scale or vector."""

    def is_decayed(path, _):
        name = path[-1].key
        return not ("bias" in name or "scale" in name or name in VECTORS)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def _parts(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: BALANCE if path[-1].key == BALANCE else "weights", params
    )


def _is_axes(x: Any) -> bool:
    return isinstance(x, tuple)


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
    """Orthogonalised updates for the layers' matrices, Adam for the rest."""
    numbers = matrices(axes)

    def label(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if _name(path) in numbers else "adam", params
        )

    def dimensions(updates):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: numbers[_name(path)], updates
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


def matrices(axes: Any) -> dict[str, optax.contrib.MuonDimensionNumbers]:
    """By name, which dimensions each matrix of the layers sums over and which it gives.

    A kernel's axes say whether it is one: those of routers (`E_vector`), poolers
    (`D_out`) and classes (`C`) are not. L and E count matrices; a matrix goes from D
    or R to all that follows, else from all before it to its last axis.
    """
    found = {}
    for path, names in jax.tree_util.tree_leaves_with_path(axes, is_leaf=_is_axes):
        if path[-1].key == "kernel" and LAYER_AXES.issuperset(names):
            own = tuple(i for i, axis in enumerate(names) if axis not in ("L", "E"))
            split = 1 if names[own[0]] in ("D", "R") else -1
            numbers = optax.contrib.MuonDimensionNumbers(own[:split], own[split:])
            found[_name(path)] = numbers
    return found


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
    named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=_is_axes)
    layers = {_name(path) for path, leaf_axes in named if leaf_axes[:1] == ("L",)}

    def split(tree):
        single: dict[str, Any] = {}
        stacked: dict[str, dict[str, Any]] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = _name(path)
            if name in layers:
                stacked.setdefault(str(leaf.shape[0]), {})[name] = leaf
            else:
                single[name] = leaf
        return single, stacked

    def join(tree, single, stacked):
        flat = dict(single)
        for group in stacked.values():
            flat |= group
        names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
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


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


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
