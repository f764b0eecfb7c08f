"""Where a step's gradients and optimizer state lie: ZeRO-1 and host memory."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.config import LayoutConfig
from llmjax.parallel.axes import Axes, shards
from llmjax.train.state import State

HOST = "pinned_host"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Trees of shardings that a step holds its values to; None leaves it to XLA.

    Attributes:
      weights: of the weights, between steps.
      gradients: of gradients and of what the optimizer makes of them.
      working: of the optimizer's state while it is updated.
      resting: of the optimizer's state between steps.
    """

    weights: Any = None
    gradients: Any = None
    working: Any = None
    resting: Any = None

    def as_gradients(self, tree: Any) -> Any:
        """Gradients, or weights on their way through the optimizer."""
        return _constrained(tree, self.gradients)

    def as_weights(self, tree: Any) -> Any:
        """Updated weights, whole again where only a part was updated."""
        return _constrained(tree, self.weights)

    def fetched(self, opt_state: Any) -> Any:
        """The optimizer's state in the device's memory."""
        return _moved(opt_state, self.resting, self.working)

    def stored(self, opt_state: Any) -> Any:
        """The optimizer's state where it lies between steps."""
        return _moved(_constrained(opt_state, self.working), self.working, self.resting)


def place(
    shapes: State, axes: State, shardings: State, layout: LayoutConfig, mesh: Mesh
) -> tuple[State, Placement]:
    """The state's shardings as `layout` wants them, and those inside the step.

    Args:
      shapes, axes, shardings: of the state, every leaf where its weight lies.
      layout: `optimizer_sharding` and `optimizer_memory` are read.
      mesh: of the shardings.

    Raises:
      ValueError: host memory that these devices do not have.
    """
    gradients, working = shardings.params, shardings.opt_state
    if layout.optimizer_sharding == "data":
        gradients = _over_data(shapes.params, axes.params, gradients, mesh)
        working = _over_data(shapes.opt_state, axes.opt_state, working, mesh)
    resting = working
    if layout.optimizer_memory == "host":
        check_host(mesh.devices.flat[0])
        working = jax.tree.map(lambda s: s.with_memory_kind("device"), working)
        resting = jax.tree.map(_on_host, shapes.opt_state, working)
    placement = Placement(shardings.params, gradients, working, resting)
    return shardings.replace(opt_state=resting), placement  # type: ignore[attr-defined]


def _over_data(shapes: Any, axes: Any, shardings: Any, mesh: Mesh) -> Any:
    """Rajbhandari et al. 2020 (arXiv:1910.02054), stage 1: cut over `data` as well."""
    return jax.tree.map(
        lambda leaf, names, s: NamedSharding(
            mesh, spread(leaf.shape, names, s.spec, mesh)
        ),
        shapes,
        axes,
        shardings,
    )


def spread(
    shape: tuple[int, ...], axes: Axes, spec: PartitionSpec, mesh: Mesh
) -> PartitionSpec:
    """`spec` with `data` added to the largest dimension that it divides.

    Layers (`L`) come last: their gradients come one after the other, and are whole
    until the last. What no dimension takes, or has no logical axis, stays.
    """
    entries = (*spec, *(None,) * (len(shape) - len(spec)))
    local = [n // shards(entry, mesh) for n, entry in zip(shape, entries, strict=True)]
    fitting = [
        i
        for i, axis in enumerate(axes)
        if axis is not None and local[i] % mesh.shape["data"] == 0
    ]
    if mesh.shape["data"] == 1 or not fitting:
        return spec
    at = max(fitting, key=lambda i: (axes[i] != "L", local[i]))
    entry = entries[at]
    before = (entry,) if isinstance(entry, str) else entry or ()
    return PartitionSpec(*entries[:at], (*before, "data"), *entries[at + 1 :])


def _constrained(tree: Any, shardings: Any) -> Any:
    if shardings is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings)


def _moved(tree: Any, here: Any, there: Any) -> Any:
    """`tree` brought to other memory, where it is another."""
    if here is None or here is there:
        return tree
    return jax.tree.map(
        lambda x, a, b: x if a.memory_kind == b.memory_kind else jax.device_put(x, b),
        tree,
        here,
        there,
    )


def _on_host(leaf: Any, sharding: NamedSharding) -> NamedSharding:
    """Scalars (counts) stay: there is nothing to save."""
    return sharding.with_memory_kind(HOST) if math.prod(leaf.shape) > 1 else sharding


def check_host(device: Any) -> None:
    """Raises ValueError where there is no host memory that `device` copies from."""
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST not in kinds:
        raise ValueError(
            f"layout.optimizer_memory is 'host' and {device.device_kind} has the "
            f"memories {', '.join(kinds) or 'none'}; it needs {HOST}: set it to "
            "'device'"
        )
