"""Low-rank adapters: LoRA, rsLoRA and DoRA."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import LoRA
from llmjax.models.layers import Projection
from llmjax.peft.method import (
    Letters,
    Weights,
    base_kernel,
    beside,
    check_rank,
    dropped,
    letters,
    matches,
    names,
    path,
    sizes,
)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """x W + scale · x A B; the sum W + scale · A B is never formed for a product.

    A is uniform in ±1/sqrt(inputs) and B zero, as in peft, so that training begins at
    the base. With `magnitude` (DoRA) each column of W + scale · A B is brought to the
    length |W| + m: m, zero at first, is trained, and no gradient goes through the
    column's own length (Liu et al. 2024, 4.3).
    """

    config: LoRA

    name: ClassVar[str] = "lora"
    fixed: ClassVar[tuple[str, ...]] = ()

    def targets(self) -> tuple[str, ...]:
        return (*self.config.targets, *(own.pattern for own in self.config.ranks))

    def selects(self, path: str) -> bool:
        config = self.config
        return matches(path, config.targets) and not matches(path, config.exclude)

    def rank(self, path: str) -> int:
        """The rank of a matrix' adapter."""
        return self._of(path)[0]

    def scale(self, path: str) -> float:
        """The factor of x A B beside a matrix."""
        return self.config.scale_of(*self._of(path))

    def _of(self, path: str) -> tuple[int, float]:
        config = self.config
        fitting = (own for own in config.ranks if matches(path, (own.pattern,)))
        own = next(fitting, None)
        if own is None:
            return config.rank, config.alpha
        return own.rank, own.alpha or config.alpha

    def apply(
        self, module: Projection, call: Callable[..., jax.Array], x: jax.Array | None
    ) -> jax.Array:
        config, axes = self.config, letters(module)
        y = call() if x is None else call(x)
        own, scale = self._weights(module, axes), self.scale(path(module))
        if x is None:
            return self._sum(axes, scale, y, **own)
        a, b = own["a"].astype(y.dtype), own["b"].astype(y.dtype)
        x = x.astype(y.dtype)
        read = dropped(module, x, config.dropout)
        rest = "".join(letter for letter in axes.x if letter not in axes.inner)
        low = jnp.einsum(f"{axes.x},{axes.shared}{axes.inner}r->{rest}r", read, a)
        added = jnp.einsum(f"{rest}r,{axes.shared}r{axes.outer}->{axes.y}", low, b)
        if not config.magnitude:
            return y + scale * added
        bias = self._bias(module, y.dtype)
        factor = self._factor(module, axes, **own).astype(y.dtype)
        if read is not x:  # as peft: what dropout took is W's alone
            weight = base_kernel(module).astype(y.dtype)
            whole = jnp.einsum(module.equation, read, weight)
            scaled = (factor - 1) * whole + factor * scale * added
            return y + scaled
        return (y - bias + scale * added) * factor + bias

    def _weights(self, module: Projection, axes: Letters) -> dict[str, Any]:
        rank = self.rank(path(module))
        inner, outer = sizes(module, axes.inner), sizes(module, axes.outer)
        inputs, outputs = int(np.prod(inner)), int(np.prod(outer))
        check_rank(rank, inputs, outputs, path(module))
        shared, over = sizes(module, axes.shared), names(module, axes.shared)
        inner_names, outer_names = names(module, axes.inner), names(module, axes.outer)
        bound, zeros = inputs**-0.5, nn.initializers.zeros
        uniform = nn.initializers.uniform(2 * bound)

        def around_zero(key, shape, dtype=jnp.float32):
            return uniform(key, shape, dtype) - bound

        specs: dict[str, Any] = {
            "a": (around_zero, (*over, *inner_names, None), (*shared, *inner, rank)),
            "b": (zeros, (*over, None, *outer_names), (*shared, rank, *outer)),
        }
        if self.config.magnitude:
            columns = (*over, *outer_names), (*shared, *outer)
            specs["magnitude"] = (zeros, *columns)
        return beside(module, self.name, **specs)

    def _factor(
        self,
        module: Projection,
        axes: Letters,
        a: jax.Array,
        b: jax.Array,
        magnitude: jax.Array,
    ) -> jax.Array:
        """(|W| + m) / |W + scale · A B| of each column, [shared, outer], float32.

        |W + s A B|² = |W|² + 2 s b·(Aᵀ W) + s² b·(Aᵀ A) b for a column b of B.
        """
        scale = self.scale(path(module))
        shared, inner, outer = axes.shared, axes.inner, axes.outer
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        weight = jax.lax.stop_gradient(base_kernel(module).astype(jnp.float32))
        to = f"->{shared}{outer}"
        square = jnp.einsum(f"{shared}{inner}{outer}{to}", jnp.square(weight))
        w_a = jnp.einsum(
            f"{shared}{inner}r,{shared}{inner}{outer}->{shared}r{outer}", a, weight
        )
        cross = jnp.einsum(f"{shared}r{outer},{shared}r{outer}{to}", w_a, b)
        gram = jnp.einsum(f"{shared}{inner}r,{shared}{inner}s->{shared}rs", a, a)
        own = jnp.einsum(
            f"{shared}r{outer},{shared}rs,{shared}s{outer}{to}", b, gram, b
        )
        length = jnp.sqrt(square + 2 * scale * cross + scale**2 * own)
        longer = jnp.sqrt(square) + magnitude
        return longer / jax.lax.stop_gradient(length)

    def _bias(self, module: Projection, dtype: Any) -> Any:
        if not module.bias:
            return 0
        return nn.unbox(module.get_variable("params", "bias")).astype(dtype)

    def merged(
        self, module: Projection, kernel: Any, bias: Any, weights: Weights
    ) -> tuple[Any, Any]:
        scale = self.scale(path(module))
        return self._sum(letters(module), scale, kernel, **weights), bias

    def _sum(
        self,
        axes: Letters,
        scale: float,
        kernel: Any,
        a: Any,
        b: Any,
        magnitude: Any = None,
    ) -> jax.Array:
        """W + scale · A B, each column with a length of its own where there is m."""
        shared, inner, outer = axes.shared, axes.inner, axes.outer
        base = kernel.astype(jnp.float32)
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        all_axes = f"{shared}{inner}{outer}"
        delta = jnp.einsum(f"{shared}{inner}r,{shared}r{outer}->{all_axes}", a, b)
        whole = base + scale * delta
        if magnitude is not None:
            to = f"{all_axes}->{shared}{outer}"
            lengths = [jnp.sqrt(jnp.einsum(to, jnp.square(w))) for w in (base, whole)]
            factor = (lengths[0] + magnitude) / lengths[1]
            of_columns = f"{all_axes},{shared}{outer}->{all_axes}"
            whole = jnp.einsum(of_columns, whole, factor)
        return whole.astype(kernel.dtype)
