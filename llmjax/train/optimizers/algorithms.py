"""The algorithms that an optimizer's chain is made of, right for stacked layers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from llmjax.config import SGD, Adafactor, AdamW, Lamb, Lion, Muon, ScheduleFree
from llmjax.parallel.axes import Axes
from llmjax.train.optimizers import roles


def mark(test: Callable[[Axes], bool], axes: Any) -> Callable[[Any], Any]:
    """Params, or a part of them -> whether `test` holds of each leaf's axes."""
    named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes)
    holds = {_name(path): test(leaf_axes) for path, leaf_axes in named}
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: holds[_name(path)], params
    )


def make(config: Any, axes: Any) -> optax.GradientTransformation:
    """The direction of an update, before decay and learning rate.

    Args:
      config: the algorithm; `Lamb` gives its direction before decay, `ScheduleFree` its
        base without momentum.
      axes: the logical axes of every weight.
    """
    if isinstance(config, AdamW | Lamb):
        return optax.scale_by_adam(config.b1, config.b2, config.eps)
    if isinstance(config, Lion):
        return optax.scale_by_lion(config.b1, config.b2)
    if isinstance(config, Muon):
        return _muon(config, axes)
    if isinstance(config, SGD):
        return optax.trace(config.momentum)
    if isinstance(config, ScheduleFree):
        return optax.scale_by_rms(
            config.b2, config.eps, eps_in_sqrt=False, bias_correction=True
        )
    assert isinstance(config, Adafactor)
    adafactor = optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=config.decay_rate,
            min_dim_size_to_factor=config.min_dim_size_to_factor,
        ),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    return merged_heads(per_layer(adafactor, axes), axes)


def merged_heads(
    transform: optax.GradientTransformation, axes: Any
) -> optax.GradientTransformation:
    """Applies `transform` to leaves whose heads are one axis, so to matrices."""
    named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes)
    axes_of = {_name(path): leaf_axes for path, leaf_axes in named}

    def merge(tree):
        def one(path, leaf):
            return leaf.reshape(roles.merge_heads(leaf.shape, axes_of[_name(path)])[0])

        return None if tree is None else jax.tree_util.tree_map_with_path(one, tree)

    def init(params):
        return transform.init(merge(params))

    def update(updates, state, params=None):
        merged, state = transform.update(merge(updates), state, merge(params))
        shaped = jax.tree.map(lambda x, like: x.reshape(like.shape), merged, updates)
        return shaped, state

    return optax.GradientTransformation(init, update)


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

    muon = uncorrected(
        optax.contrib.scale_by_muon(
            ns_steps=config.newton_schulz_steps,
            beta=config.momentum,
            weight_dimension_numbers=dimensions,
        )
    )
    scale = optax.stateless(
        lambda updates, _: jax.tree.map(rms_of_adam, updates, dimensions(updates))
    )
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return optax.partition({"muon": optax.chain(muon, scale), "adam": adam}, label)


def uncorrected(
    muon: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """optax's Muon with the Nesterov momentum of its paper: m G + m^2 M + G, M before.

    optax divides M and G by 1 - m**count, by different counts; from a large one both
    are divided by 1, and the matrix that is orthogonalised is the paper's times 1 - m.
    """

    def init(params):
        state = muon.init(params)
        last = jnp.full_like(state.count, jnp.iinfo(state.count.dtype).max)
        return state._replace(count=last)

    return optax.GradientTransformation(init, muon.update)


def matrices(axes: Any) -> dict[str, optax.contrib.MuonDimensionNumbers]:
    """Name -> the dimensions that a layer's matrix sums over and those that it gives.

    A leaf's axes say whether it is one: kernels of routers (`E_vector`), poolers
    (`D_out`) and classes (`C`) are not. L and E count matrices; a matrix goes from D
    or R to all that follows, else from all before it to its last axis.
    """
    numbers = {}
    for path, names in jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes):
        if roles.is_layer_matrix(names):
            own = tuple(i for i, axis in enumerate(names) if axis not in ("L", "E"))
            split = 1 if names[own[0]] in ("D", "R") else -1
            numbers[_name(path)] = optax.contrib.MuonDimensionNumbers(
                own[:split], own[split:]
            )
    return numbers


class PerLayerState(NamedTuple):
    """The state of `per_layer`, for single leaves and for stacked ones by depth."""

    single: Any
    stacked: dict[str, Any]


def per_layer(
    transform: optax.GradientTransformation, axes: Any
) -> optax.GradientTransformation:
    """Applies `transform` to leaves stacked over `L` as if each layer were a leaf.

    A norm or factorisation per leaf is then the same scanned and unrolled.

    Args:
      transform: any optax transform.
      axes: the tree of logical axes, to know the stacked leaves (axis 0 is `L`).
    """
    named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes)
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


def is_axes(x: Any) -> bool:
    """Whether `x` is a leaf of a tree of logical axes."""
    return isinstance(x, tuple)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
