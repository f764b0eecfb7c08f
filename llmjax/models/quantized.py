"""Matmuls of 8 bits through qwix: of layers' projections, forward and backward.

Each operand is divided by its largest absolute value over the axes that are summed,
computed anew at every call: a scale for each token of x, for each output of a kernel,
and backward for each token or output of the gradient (Abdolrashidi et al. 2021, AQT,
arXiv:2105.03536). The forward's 8-bit operands are the backward's too, their scales
moved into the gradient before it is rounded. int8 adds up in int32. Of fp8 a forward
operand is e4m3 and a gradient e5m2 (Micikevicius et al. 2022, arXiv:2209.05433); where
a device has no such unit, as a CPU has none, XLA rounds to fp8 and multiplies wider.

qwix exports these matmuls only as an interceptor of a whole model; the functions that
it calls are private, and `training_matmuls` is the one place that reaches for them.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import Fp8, Int8, NoQuantization, Quantization

FORWARD = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
GRADIENT = {"int8": jnp.int8, "fp8": jnp.float8_e5m2}


def library(reader: str) -> Any:
    """The module qwix; `reader` names who needs it.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module("qwix")
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] != "qwix":
            raise
        raise ModuleNotFoundError(
            f"{reader} needs qwix, which is not installed; "
            "run `pip install 'llmjax[quantization]'`"
        ) from None


@dataclasses.dataclass(frozen=True)
class Matmuls:
    """qwix's matmuls with a quantised backward pass, and their configs."""

    dot_general: Callable[..., jax.Array]
    dot_config: Callable[..., Any]
    ragged_dot: Callable[..., jax.Array]
    ragged_config: Callable[..., Any]


_OPERANDS = ("lhs_qtype", "rhs_qtype", "dlhs_grad_qtype", "drhs_grad_qtype")


@functools.cache
def training_matmuls() -> Matmuls:
    """The matmuls of the installed qwix, checked for what is used here.

    Raises:
      ModuleNotFoundError: qwix is not installed.
      ImportError: it is of a version that lacks them.
    """
    library("layout.quantization")
    dot, dot_config = _private(
        "dot_general_qt", "DotGeneralQtConfig", (*_OPERANDS, "use_original_residuals")
    )
    ragged, ragged_config = _private("ragged_dot_qt", "RaggedDotQtConfig", _OPERANDS)
    return Matmuls(dot, dot_config, ragged, ragged_config)


def _private(name: str, config: str, fields: tuple[str, ...]) -> tuple[Any, Any]:
    """A function of the private module of its own name, and its config's class."""
    try:
        module = importlib.import_module(f"qwix._src.core.{name}")
        function, cls = getattr(module, name), getattr(module, config)
        missing = set(fields) - {field.name for field in dataclasses.fields(cls)}
        if missing:
            raise AttributeError(f"{config} has no {', '.join(sorted(missing))}")
    except (ImportError, AttributeError) as e:
        raise ImportError(
            f"layout.quantization needs {name} of qwix 0.1.8, and qwix "
            f"{importlib.metadata.version('qwix')} is installed ({e}); "
            "run `pip install 'qwix==0.1.8'`"
        ) from e
    return function, cls


def check(how: Quantization) -> None:
    """Raises ImportError before anything is traced, where qwix is needed."""
    if not isinstance(how, NoQuantization):
        training_matmuls()


def einsum(
    how: Quantization, equation: str, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """`jnp.einsum(equation, x, kernel)` quantised by `how`, in x's dtype.

    Args:
      how: layout.quantization.
      equation: of two operands, no letter twice in one of them.
      x, kernel: of one floating dtype.
    """
    if isinstance(how, NoQuantization):
        return jnp.einsum(equation, x, kernel)
    dimensions, order = dot_dimensions(equation)
    y = training_matmuls().dot_general(
        *_varying_alike(x, kernel), dimensions, _dot_config(how)
    )
    return jnp.transpose(y, order)


def ragged_dot(
    how: Quantization, x_XI: jax.Array, kernel_EIO: jax.Array, sizes_E: jax.Array
) -> jax.Array:
    """`jax.lax.ragged_dot` quantised by `how`: [X, O] in x's dtype.

    A kernel has a scale for each output, which all experts share. Without `backward`
    the backward pass reads the operands that the forward pass rounded.
    """
    if isinstance(how, NoQuantization):
        return jax.lax.ragged_dot(x_XI, kernel_EIO, sizes_E)
    matmuls = training_matmuls()
    forward, gradient = _types(how)
    config = matmuls.ragged_config(
        lhs_qtype=forward,
        rhs_qtype=forward,
        dlhs_grad_qtype=gradient,
        drhs_grad_qtype=gradient,
    )
    y_XO: jax.Array = matmuls.ragged_dot(
        *_varying_alike(x_XI, kernel_EIO), sizes_E, config
    )
    return y_XO


def dense(kernel: Any, dtype: jnp.dtype) -> jax.Array:
    """A kernel in `dtype`, dequantised if `quantize_weights` rounded it."""
    if hasattr(kernel, "qvalue"):
        kernel = library("a quantised weight").dequantize(kernel)
    weight: jax.Array = kernel.astype(dtype)
    return weight


def dot_dimensions(equation: str) -> tuple[Any, tuple[int, ...]]:
    """`lax.dot_general`'s dimension numbers of an einsum, and its result's transpose.

    Letters of both operands are summed unless the result has them; these are a batch.
    """
    operands, result = equation.split("->")
    lhs, rhs = operands.split(",")
    both = [c for c in lhs if c in rhs]
    summed = [c for c in both if c not in result]
    batch = [c for c in both if c in result]
    order = [*batch, *(c for c in lhs + rhs if c not in both)]
    dimensions = (
        (tuple(map(lhs.index, summed)), tuple(map(rhs.index, summed))),
        (tuple(map(lhs.index, batch)), tuple(map(rhs.index, batch))),
    )
    return dimensions, tuple(map(order.index, result))


def _types(how: Int8 | Fp8) -> tuple[Any, Any]:
    """Types of forward operands and of gradients; None where those stay wide."""
    return FORWARD[how.kind], GRADIENT[how.kind] if how.backward else None


@functools.cache
def _dot_config(how: Int8 | Fp8) -> Any:
    forward, gradient = _types(how)
    return training_matmuls().dot_config(
        lhs_qtype=forward,
        rhs_qtype=forward,
        dlhs_grad_qtype=gradient,
        drhs_grad_qtype=gradient,
        use_original_residuals=not how.backward,
    )


def _varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, varying over the same axes of a shard_map.

    A plain matmul does this implicitly; a custom gradient needs it explicit.
    """
    varying = set().union(*(jax.typeof(a).mat.varying for a in arrays))

    def alike(a):
        missing = tuple(sorted(varying - jax.typeof(a).mat.varying))
        return jax.lax.pcast(a, missing, to="varying") if missing else a

    return [alike(a) for a in arrays]
