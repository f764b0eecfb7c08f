"""Weights of 8 or 4 bits for inference; activations stay in layout.precision."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.models.layers import Projection
from llmjax.models.quantized import library

TYPES = {8: jnp.int8, 4: jnp.int4}


def quantize_weights(
    model: Any, params: Any, batch: Any, *, bits: int = 8, group: int = 0
) -> Any:
    """A trained model's parameters with its projections' kernels rounded by qwix.

    A kernel becomes a `qwix.QArray`: integers, and a float32 scale for each output,
    by absolute maximum; `model.apply`, `generate` and a jitted loss take the tree
    as they took `params`. Each layer's kernel is made wide only while it is multiplied.
    Tables, routers, norms and biases stay as they are.

    Args:
      model: any of the project's.
      params: its parameters, unboxed, of floats.
      batch: what the model reads, arrays or ShapeDtypeStructs; of shapes alone.
      bits: 8 or 4.
      group: inputs that share a scale, by the last axis that is summed over; 0 for all.
        4 bits want groups of 32 to 128 (Frantar et al. 2022, arXiv:2210.17323).

    Raises:
      ValueError: other bits, or a group that doesn't divide a kernel's inputs.
      ModuleNotFoundError: qwix is not installed.
    """
    if bits not in TYPES:
        raise ValueError(f"bits is {bits}; accepted: {', '.join(map(str, TYPES))}")
    qwix = library("quantize_weights")
    flat = flax.traverse_util.flatten_dict(params)
    for path, axes in _contracted(model, batch).items():
        kernel = flat[path]
        summed = tuple(kernel.ndim + a for a in axes)
        tiles = {summed[-1]: group} if group else {}
        size = kernel.shape[summed[-1]]
        if group and size % group:
            raise ValueError(
                f"{'/'.join(path)} has shape {kernel.shape}; group={group} does not "
                f"divide axis {summed[-1]} of size {size}; give a divisor, or 0"
            )
        alone = [a for a in range(kernel.ndim) if a not in summed]
        flat[path] = qwix.quantize(
            kernel,
            TYPES[bits],
            channelwise_axes=alone,
            tiled_axes=tiles,
            scale_dtype=jnp.float32,
        )
    return flax.traverse_util.unflatten_dict(flat)


def _contracted(model: Any, batch: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path of a kernel -> its axes that are summed over, counted from the end."""
    axes = {}

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, Projection) and module.contracted:
            leaf = (*module.path, module.parameter)
            axes[leaf] = tuple(a - len(module.shape) for a in module.contracted)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b), batch)
    return axes
