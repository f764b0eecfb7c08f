"""Updates that differ from layer to layer, or lead back to where a run began."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llmjax.config import ModelConfig
from llmjax.parallel.axes import Axes
from llmjax.train.optimizers import roles

STACKS = ("encoder", "stack")  # in the order of a forward pass
BODY = "transformer"


def distances(axes: Any, model: ModelConfig) -> dict[str, np.ndarray]:
    """How far each weight lies below the head, by name: of stacked layers int [L].

    0 for the head and final norms, 1 for the last layer, L + 1 for the embeddings and
    what all layers share; an encoder lies below its decoder.

    Args:
      axes: the logical axes of every weight.
      model: that they are of.
    """
    two = model.architecture == "encoder_decoder"
    groups = {"stack": model.layers, "encoder": model.encoder_layers if two else ()}
    first: dict[tuple[str, int], int] = {}  # layers before a group
    count = 0
    for stack in STACKS:
        for number, group in enumerate(groups[stack]):
            first[stack, number] = count
            count += group.repeat * len(group.pattern)

    def of(parts: list[str]) -> Any:
        stack = next((name for name in STACKS if name in parts), "")
        group = next((part for part in parts if part.startswith("group_")), "")
        if group and stack:
            number = int(group.removeprefix("group_"))
            layer = next(part for part in parts if part.startswith("layer_"))
            own = groups[stack][number]
            repeats = np.arange(own.repeat)
            within = repeats * len(own.pattern) + int(layer.removeprefix("layer_"))
            return count - first[stack, number] - within
        if "final_norm" in parts:  # an encoder's lies with its last layer
            below = sum(g.repeat * len(g.pattern) for g in groups["stack"])
            return below + 1 if stack == "encoder" else 0
        return count + 1 if BODY in parts else 0

    paths = jax.tree_util.tree_leaves_with_path(
        axes, is_leaf=lambda x: isinstance(x, tuple)
    )
    names = (_name(path) for path, _ in paths)
    return {name: np.asarray(of(name.split("/")), np.int32) for name in names}


def by_layer(
    below: dict[str, np.ndarray], decay: float, every: int | None
) -> optax.GradientTransformation:
    """Scales updates by `decay` for each layer below the head.

    With `every`, those `n` below are 0 before update `n * every` (gradual unfreezing,
    Howard & Ruder 2018, arXiv:1801.06146): weights keep their bits. Moments are kept
    from the first update on, so that none starts with a leap, and clipping counts all
    gradients.

    Raises:
      ValueError: of `init`, for stacked layers that are not those of `below`.
    """

    def init(params):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            layers = below[_name(path)].size
            if layers > 1 and leaf.shape[0] != layers:
                raise ValueError(
                    f"{_name(path)} has {leaf.shape[0]} layers and the model {layers}; "
                    "leave out optimizer.layer_decay and optimizer.unfreeze_every, "
                    "which tell the layers of one stack apart"
                )
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        def one(path, leaf):
            distance = below[_name(path)]
            distance = distance.reshape(-1, *[1] * (leaf.ndim - 1))
            if not leaf.ndim or distance.size == 1:
                distance = distance.reshape(())
            scaled = leaf * (decay**distance).astype(np.float32)
            if every is None:
                return scaled
            return jnp.where(state.count >= every * distance, scaled, 0)

        updates = jax.tree_util.tree_map_with_path(one, updates)
        return updates, optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


class StartState(NamedTuple):
    """The state of `decay_to_start`."""

    count: Any
    start: Any


def decay_to_start(
    rate: Callable[[Any], Any], decay: float, axes: Any
) -> optax.GradientTransformation:
    """Moves the Transformer's matrices towards those at first, by the learning rate
    times `decay`.

    The penalty L2-SP (Li et al. 2018, arXiv:1802.01483) apart from the gradient, as
    weight decay is (RecAdam without its annealing, Chen et al. 2020, arXiv:2004.12651).
    """
    named = jax.tree_util.tree_leaves_with_path(
        axes, is_leaf=lambda x: isinstance(x, tuple)
    )
    names = {_name(path) for path, own in named if is_body_matrix(_name(path), own)}

    def marked(tree):
        return jax.tree_util.tree_map_with_path(lambda p, _: _name(p) in names, tree)

    def init(params):
        return StartState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params):
        scale = decay * rate(state.count)
        updates = jax.tree.map(
            lambda u, p, start: u - scale * (p - start), updates, params, state.start
        )
        return updates, StartState(state.count + 1, state.start)

    return optax.masked(optax.GradientTransformation(init, update), marked)


def is_body_matrix(name: str, axes: Axes) -> bool:
    """Whether a weight is a matrix or a table of the Transformer, no head's."""
    return BODY in name.split("/") and not roles.is_vector(axes)


def check(layers: ModelConfig, key: str) -> None:
    """Raises ValueError for layers that share their weights.

    Args:
      layers: the model.
      key: of the config that tells layers apart.
    """
    if any(g.shared for g in (*layers.layers, *layers.encoder_layers)):
        raise ValueError(
            f"{key} tells layers apart, and those of this model share their weights; "
            "leave it out"
        )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
