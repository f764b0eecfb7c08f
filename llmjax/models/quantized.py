"""Matmuls of 8 bits through qwix: of layers' projections, forward and backward.

Each operand is divided by its largest absolute value over the axes that are summed,
found anew at every call: a scale for each token of x, for each output of a kernel, and
backward for each token or output of the gradient (Abdolrashidi et al. 2021, AQT,
arXiv:2105.03536). The forward's 8-bit operands are the backward's too, their scales
moved into the gradient before it is rounded. int8 adds up in int32. Of fp8 a forward
operand is e4m3 and a gradient e5m2 (Micikevicius et al. 2022, arXiv:2209.05433); where
a device has no such unit, as a CPU has none, XLA rounds to fp8 and multiplies wider.
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import Fp8, Int8, NoQuantization, Quantization

FORWARD = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
GRADIENT = {"int8": jnp.int8, "fp8": jnp.float8_e5m2}


def library(name: str = "qwix", reader: str = "layout.quantization") -> Any:
    """The module of qwix; `reader` is what needs it.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] != "qwix":
            raise
        raise ModuleNotFoundError(
            f"{reader} needs qwix, which is not installed or older than 0.1.8; "
            "run `pip install 'llmjax[quantization]'`"
        ) from None


def check(how: Quantization) -> None:
    """Raises ModuleNotFoundError before anything is traced, where qwix is needed."""
    if not isinstance(how, NoQuantization):
        library(reader=f"layout.quantization.kind={how.kind!r}")


def einsum(
    how: Quantization, equation: str, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """`jnp.einsum(equation, x, kernel)`, multiplied as `how` says; x's dtype.

    Args:
      how: e.g. layout.quantization.
      equation: of two operands, no letter twice in one of them.
      x, kernel: of one floating dtype.
    """
    if isinstance(how, NoQuantization):
        return jnp.einsum(equation, x, kernel)
    dimensions, order = dot_dimensions(equation)
    dot = library("qwix._src.core.dot_general_qt").dot_general_qt
    y = dot(*_varying_alike(x, kernel), dimensions, _dot_config(how))
    return jnp.transpose(y, order)


def ragged_dot(
    how: Quantization, x_XI: jax.Array, kernel_EIO: jax.Array, sizes_E: jax.Array
) -> jax.Array:
    """`jax.lax.ragged_dot`, multiplied as `how` says; [X, O] in x's dtype.

    A kernel's scale is that of an output of all experts together. Without `backward`
    the backward pass sees the operands as the forward rounded them.
    """
    if isinstance(how, NoQuantization):
        return jax.lax.ragged_dot(x_XI, kernel_EIO, sizes_E)
    qt = library("qwix._src.core.ragged_dot_qt")
    forward, gradient = _types(how)
    config = qt.RaggedDotQtConfig(
        lhs_qtype=forward,
        rhs_qtype=forward,
        dlhs_grad_qtype=gradient,
        drhs_grad_qtype=gradient,
    )
    y_XO: jax.Array = qt.ragged_dot_qt(
        *_varying_alike(x_XI, kernel_EIO), sizes_E, config
    )
    return y_XO


def dense(kernel: Any, dtype: jnp.dtype) -> jax.Array:
    """A kernel as it is multiplied: in `dtype`, what `quantize_weights` made undone."""
    if hasattr(kernel, "qvalue"):
        kernel = library(reader="a quantised weight").dequantize(kernel)
    weight: jax.Array = kernel.astype(dtype)
    return weight


def dot_dimensions(equation: str) -> tuple[Any, tuple[int, ...]]:
    """An einsum as `lax.dot_general`'s dimension numbers and its result's order.

    Letters of both operands are summed unless the result has them; these are a batch.
    """
    operands, result = equation.split("->")
    lhs, rhs = operands.split(",")
    both = [c for c in lhs if c in rhs]
    summed = [c for c in both if c not in result]
    batch = [c for c in both if c in result]
    made = [*batch, *(c for c in lhs + rhs if c not in both)]
    dimensions = (
        (tuple(map(lhs.index, summed)), tuple(map(rhs.index, summed))),
        (tuple(map(lhs.index, batch)), tuple(map(rhs.index, batch))),
    )
    return dimensions, tuple(map(made.index, result))


def _types(how: Int8 | Fp8) -> tuple[Any, Any]:
    """Of what is multiplied forward, and of gradients, None where they stay wide."""
    return FORWARD[how.kind], GRADIENT[how.kind] if how.backward else None


@functools.cache
def _dot_config(how: Int8 | Fp8) -> Any:
    forward, gradient = _types(how)
    return library("qwix._src.core.dot_general_qt").DotGeneralQtConfig(
        lhs_qtype=forward,
        rhs_qtype=forward,
        dlhs_grad_qtype=gradient,
        drhs_grad_qtype=gradient,
        use_original_residuals=not how.backward,
    )


def _varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, varying over the same axes of a shard_map.

    What is implicit in a plain matmul has to be said before a custom gradient.
    """
    varying = set().union(*(jax.typeof(a).mat.varying for a in arrays))

    def alike(a):
        missing = tuple(sorted(varying - jax.typeof(a).mat.varying))
        return jax.lax.pcast(a, missing, to="varying") if missing else a

    return [alike(a) for a in arrays]
