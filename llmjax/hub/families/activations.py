"""Names of activations in config.json."""

from typing import Any

from llmjax.config.feed_forward import Activation

NAMES: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}


def to_config(hf: dict[str, Any], key: str, default: str) -> Activation:
    """The activation that `hf[key]` names.

    Raises:
      ValueError: an activation that we don't have.
    """
    name = hf.get(key, default)
    if name not in NAMES:
        raise ValueError(f"{key} is {name!r}; accepted: {', '.join(NAMES)}")
    return NAMES[name]


def to_hf(activation: Activation) -> str:
    """The name of an activation in config.json, the first of several."""
    return next(name for name, ours in NAMES.items() if ours == activation)
