"""The protocol of a method of adapters, and the axes of a matrix by what is summed."""

import fnmatch
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.layers import Projection

Weights = Mapping[str, Any]  # name of a method's weight -> array
Init = Callable[..., jax.Array]


class Letters(NamedTuple):
    """The axes of a projection's kernel, by what its equation does with them.

    Attributes:
      x, y: those of its input and of its result.
      shared: of both and of the kernel, as experts.
      inner: of the input and the kernel: they are summed over.
      outer: of the kernel and the result.
    """

    x: str
    y: str
    shared: str
    inner: str
    outer: str


def letters(module: Projection) -> Letters:
    """The axes of a projection's kernel."""
    operands, y = module.equation.split("->")
    x, kernel = operands.split(",")
    shared = "".join(a for a in kernel if a in x and a in y)
    inner = "".join(a for a in kernel if a in x and a not in y)
    outer = "".join(a for a in kernel if a not in x)
    return Letters(x, y, shared, inner, outer)


def sizes(module: Projection, axes: str) -> tuple[int, ...]:
    """The sizes of some of the kernel's axes, by letter."""
    kernel = module.equation.split("->")[0].split(",")[1]
    return tuple(module.shape[kernel.index(a)] for a in axes)


def names(module: Projection, axes: str) -> tuple[str | None, ...]:
    """The logical names of some of the kernel's axes, by letter."""
    kernel = module.equation.split("->")[0].split(",")[1]
    return tuple(module.axes[kernel.index(a)] for a in axes)


def path(module: Projection) -> str:
    """Where a matrix is in its model: "transformer/stack/…/attention/query"."""
    own = () if module.parameter == "kernel" else (module.parameter,)
    return "/".join((*module.path, *own))


def matches(name: str, targets: Collection[str]) -> bool:
    """Whether a path is, or ends in, or fits one of `targets`."""
    return any(
        f"/{name}".endswith(f"/{target}") or fnmatch.fnmatchcase(name, target)
        for target in targets
    )


class _Weights(nn.Module):
    """The weights of a method beside a kernel, in a scope of their own."""

    @nn.compact
    def __call__(self, specs: Mapping[str, tuple[Init, Any, tuple[int, ...]]]) -> Any:
        return {
            name: self.param(name, nn.with_logical_partitioning(init, axes), shape)
            for name, (init, axes, shape) in specs.items()
        }


def beside(
    module: Projection,
    method: str,
    **specs: tuple[Init, tuple[str | None, ...], tuple[int, ...]],
) -> dict[str, Any]:
    """The weights of a method beside a module's kernel, by name.

    They lie in `<kernel>_<method>/<name>`, a scope of their own, so that the kernel has
    the initial bits that it has without them.

    Args:
      module: the projection, whose call is intercepted.
      method: its name.
      specs: name -> initialiser, logical axes and shape.
    """
    name = f"{module.parameter}_{method}"
    return _Weights(parent=module, name=name)(specs)


def base_kernel(module: Projection) -> jax.Array:
    """The matrix itself, as stored, once the module has been called."""
    kernel: Any = module.get_variable("params", module.parameter)
    return nn.unbox(kernel)


def dropped(module: Projection, x: jax.Array, rate: float) -> jax.Array:
    """x after dropout of an adapter's own; x itself where it is off."""
    if not rate or not module.has_rng("dropout"):
        return x
    keep = 1 - rate
    kept = jax.random.bernoulli(module.make_rng("dropout"), keep, x.shape)
    return jnp.where(kept, x / keep, jnp.zeros_like(x))


def check_rank(rank: int, inputs: int, outputs: int, path: str) -> None:
    """Raises ValueError for a rank that a matrix can't have."""
    largest = min(inputs, outputs)
    if rank > largest:
        raise ValueError(
            f"peft.rank={rank} is more than the rank of {path}, a matrix of {inputs} × "
            f"{outputs}; set it to {largest} at most, or leave the matrix out by "
            "peft.exclude"
        )


@runtime_checkable
class Method(Protocol):
    """A kind of adapters of matrices.

    Attributes:
      name: of the scopes of its weights, behind the kernel's: "kernel_lora".
      fixed: names of its weights that are not trained.
    """

    name: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]]

    def targets(self) -> tuple[str, ...]:
        """The targets of the config, each of which must match a matrix."""

    def selects(self, path: str) -> bool:
        """Whether a matrix is adapted."""

    def apply(
        self,
        module: Projection,
        call: Callable[..., jax.Array],
        x: jax.Array | None,
    ) -> jax.Array:
        """The adapted product, or without `x` the adapted matrix.

        It creates its weights in the scope of `module`, after the matrix itself.

        Args:
          module: the projection.
          call: its product, or its matrix.
          x: its input.
        """

    def merged(
        self, module: Projection, kernel: Any, bias: Any, weights: Weights
    ) -> tuple[Any, Any]:
        """The matrix, and its bias or None, with the adapters in them.

        Args:
          module: the projection.
          kernel, bias: its own weights.
          weights: of the method, by name.
        """
