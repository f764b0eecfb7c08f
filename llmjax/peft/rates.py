"""LoRA+: B learns at a rate of its own."""

from typing import Any

import jax
import optax

from llmjax.config import LoRA, Peft

SCOPE = "_lora/b"  # the end of the names of B


def transforms(peft: Peft) -> list[optax.GradientTransformation]:
    """What of a method follows an optimizer's learning rate; []: nothing."""
    if not isinstance(peft, LoRA) or peft.b_rate == 1:
        return []
    rate = peft.b_rate

    def scaled(updates: Any, params: Any = None) -> Any:
        def of(path: Any, leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf * rate if name.endswith(SCOPE) else leaf

        return jax.tree_util.tree_map_with_path(of, updates)

    return [optax.stateless(scaled)]
