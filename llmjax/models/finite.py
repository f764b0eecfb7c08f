"""Why numbers of a model are not finite: its weights, or the range of its precision."""

from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import Precision


def reason(weights: Any, precision: Precision) -> str:
    """What to say of a result that is NaN or infinite, and what to do.

    Args:
      weights: a tree of arrays; the first that holds such values is named.
      precision: of the activations.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            count = int(jnp.sum(~jnp.isfinite(leaf)))
            if count:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                return (
                    f"{count} values of the weight {name} are not finite; take an "
                    "earlier checkpoint"
                )
    wider = {"float16": "'bfloat16' or 'float32'", "bfloat16": "'float32'"}
    remedy = wider.get(precision.kind)
    return f"all weights are finite, so activations overflow in {precision.kind}" + (
        f"; set layout.precision.kind to {remedy}" if remedy else ""
    )
