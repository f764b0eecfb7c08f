"""The base of methods whose maths is of plain matrices, whatever axes a kernel has."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.models.layers import Projection
from llmjax.peft.method import (
    Init,
    Letters,
    Weights,
    base_kernel,
    beside,
    dropped,
    letters,
    matches,
    names,
    path,
    sizes,
)


class Size(NamedTuple):
    """A matrix: how many inputs and outputs it has, and its path, for errors."""

    inputs: int
    outputs: int
    path: str = "the matrix"


class Spec(NamedTuple):
    """A weight of a method: its initialiser, and its axes.

    An axis is "I", the matrix' inputs, "O", its outputs, or a size.
    """

    init: Init
    axes: tuple[str | int, ...]

    def shape(self, size: Size) -> tuple[int, ...]:
        """The sizes of the axes."""
        own = {"I": size.inputs, "O": size.outputs}
        return tuple(own[a] if isinstance(a, str) else a for a in self.axes)


@dataclasses.dataclass(frozen=True)
class MatrixMethod(abc.ABC):
    """A method as functions of x [..., I], y [..., O], W [I, O] and its weights.

    Kernels of several axes (heads) are flattened for them, and those of experts are
    mapped over.

    Attributes:
      config: of `llmjax.config.adapters`.
      name, fixed: see `Method`.
      neutral: the value of a weight's entries where a matrix has no adapter, beside
        others of its stack that have one; 0 if it is not named.
      begins_at_base: whether `begun` gives the weights that a run starts with.
    """

    config: Any

    name: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[Mapping[str, float]] = {}
    begins_at_base: ClassVar[bool] = False

    @abc.abstractmethod
    def specs(self, size: Size) -> dict[str, Spec]:
        """The weights beside a matrix.

        Raises:
          ValueError: a matrix that can't have the method.
        """

    def begun(self, kernel: jax.Array) -> Weights:
        """The weights that a run starts with, of W [I, O] in float32."""
        raise NotImplementedError(f"{self.name} begins alike beside any matrix")

    def before(self, x: jax.Array, w: Weights) -> jax.Array:
        """What the matrix reads instead of x."""
        return x

    def after(
        self, x: jax.Array, y: jax.Array, kernel: jax.Array, w: Weights
    ) -> jax.Array:
        """The result instead of y, which has the bias in it.

        Args:
          x: after dropout; y has `before` of what it was.
          y: of the matrix.
          kernel: W, of which nothing is computed where it is not read.
          w: the weights by name, in float32.
        """
        return y

    @abc.abstractmethod
    def matrix(self, kernel: jax.Array, w: Weights) -> jax.Array:
        """W with the adapters in it, all in float32."""

    def vector(self, bias: jax.Array, w: Weights) -> jax.Array:
        """The bias with the adapters in it."""
        return bias

    def targets(self) -> tuple[str, ...]:
        return self.config.targets

    def selects(self, path: str) -> bool:
        config = self.config
        return matches(path, config.targets) and not matches(path, config.exclude)

    def apply(
        self, module: Projection, call: Callable[..., jax.Array], x: jax.Array | None
    ) -> jax.Array:
        axes = letters(module)
        own = self._weights(module, axes)
        if x is None:
            return self.merged(module, call(), None, own)[0]
        flat, over = self._flat(module, own), len(axes.shared)
        rest = "".join(a for a in axes.x if a not in axes.shared + axes.inner)
        into, out = axes.shared + rest + axes.inner, axes.shared + rest + axes.outer
        plain = _flattened(x, axes.x, into, len(axes.inner))
        if type(self).before is not MatrixMethod.before:
            read = _mapped(self.before, over)(plain, flat).astype(x.dtype)
            lengths = dict(zip(axes.x, x.shape, strict=True))
            x = _restored(read, into, axes.x, lengths)
        y = call(x)
        if type(self).after is MatrixMethod.after:
            return y
        rate = getattr(self.config, "dropout", 0.0)
        plain = dropped(module, plain.astype(y.dtype), rate)
        kernel = self._plain(module, base_kernel(module)).astype(y.dtype)
        result = _flattened(y, axes.y, out, len(axes.outer))
        result = _mapped(self.after, over)(plain, result, kernel, flat)
        lengths = dict(zip(axes.y, y.shape, strict=True))
        return _restored(result.astype(y.dtype), out, axes.y, lengths)

    def merged(
        self, module: Projection, kernel: Any, bias: Any, weights: Weights
    ) -> tuple[Any, Any]:
        flat, over = self._flat(module, weights), len(letters(module).shared)
        plain = self._plain(module, kernel.astype(jnp.float32))
        whole = _mapped(self.matrix, over)(plain, flat)
        if bias is not None:
            vector = self.vector(bias.astype(jnp.float32).reshape(-1), flat)
            bias = vector.reshape(bias.shape).astype(bias.dtype)
        return whole.reshape(kernel.shape).astype(kernel.dtype), bias

    def started(self, module: Projection, kernel: jax.Array) -> Weights:
        """`begun`, in the axes of the kernel."""
        axes = letters(module)
        own = _mapped(self.begun, len(axes.shared))(
            self._plain(module, kernel.astype(jnp.float32))
        )
        shapes = {name: spec[2] for name, spec in self._beside(module, axes).items()}
        return {name: value.reshape(shapes[name]) for name, value in own.items()}

    def _plain(self, module: Projection, kernel: jax.Array) -> jax.Array:
        """[*shared, *inner, *outer] -> [*shared, I, O]."""
        size, over = size_of(module), len(letters(module).shared)
        return kernel.reshape(*kernel.shape[:over], size.inputs, size.outputs)

    def _weights(self, module: Projection, axes: Letters) -> dict[str, Any]:
        return beside(module, self.name, **self._beside(module, axes))

    def _beside(self, module: Projection, axes: Letters) -> dict[str, Any]:
        """Initialiser, logical axes and shape of each weight."""
        of = {"I": axes.inner, "O": axes.outer}
        over, logical = sizes(module, axes.shared), names(module, axes.shared)
        own: dict[str, Any] = {}
        for name, spec in self.specs(size_of(module)).items():
            shape, logical_of = list(over), list(logical)
            for axis in spec.axes:
                if isinstance(axis, str):
                    shape += sizes(module, of[axis])
                    logical_of += names(module, of[axis])
                else:
                    shape.append(axis)
                    logical_of.append(None)
            own[name] = (spec.init, tuple(logical_of), tuple(shape))
        return own

    def _flat(self, module: Projection, weights: Weights) -> Weights:
        """The weights with one axis for all inputs, one for all outputs, in float32."""
        size = size_of(module)
        over, specs = sizes(module, letters(module).shared), self.specs(size)

        def flat(name: str, leaf: Any) -> jax.Array:
            leaf = leaf.reshape(*over, *specs[name].shape(size))
            floats = jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(jnp.float32) if floats else leaf

        return {name: flat(name, leaf) for name, leaf in weights.items()}


def size_of(module: Projection) -> Size:
    """The size of one matrix of a projection."""
    axes = letters(module)
    inputs, outputs = sizes(module, axes.inner), sizes(module, axes.outer)
    return Size(math.prod(inputs), math.prod(outputs), path(module))


def added(x: jax.Array, *factors: jax.Array) -> jax.Array:
    """x times matrices and vectors in turn, in the type of x."""
    for factor in factors:
        factor = factor.astype(x.dtype)
        x = x * factor if factor.ndim == 1 else x @ factor
    return x


def uniform(fan: int) -> Init:
    """Uniform in ±1/sqrt(fan), as torch and peft begin a linear layer of `fan`."""

    def init(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(fan**-0.5), fan**-0.5)

    return init


def check_divides(field: str, value: int, features: int, what: str, path: str) -> None:
    """Raises ValueError where a block's size does not divide a matrix' features."""
    if features % value:
        near = [n for n in range(1, features + 1) if features % n == 0]
        close = sorted(sorted(near, key=lambda n: abs(n - value))[:3])
        raise ValueError(
            f"peft.{field}={value} does not divide the {features} {what} of {path}; "
            f"sizes that do: {', '.join(map(str, close))}; or leave the matrix out by "
            "peft.exclude"
        )


def _flattened(x: jax.Array, axes: str, order: str, last: int) -> jax.Array:
    """x with its axes in an order, the last so many as one."""
    x = jnp.einsum(f"{axes}->{order}", x)
    kept = x.ndim - last
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))


def _restored(
    x: jax.Array, order: str, axes: str, lengths: Mapping[str, int]
) -> jax.Array:
    """The way back from `_flattened`."""
    return jnp.einsum(f"{order}->{axes}", x.reshape(*(lengths[a] for a in order)))


def _mapped(function: Callable[..., Any], over: int) -> Callable[..., Any]:
    for _ in range(over):
        function = jax.vmap(function)
    return function
