"""Refuses what config.json asks for and we can't do."""

from typing import Any


def only(hf: dict[str, Any], **accepted: Any) -> None:
    """Checks that each key has the accepted value, or is absent or None.

    Raises:
      ValueError: another value; with the key and the value accepted.
    """
    for key, only_value in accepted.items():
        value = hf.get(key)
        if value is not None and value != only_value:
            raise ValueError(f"{key} is {value!r}; accepted: {only_value!r}")


def unquantized(hf: dict[str, Any]) -> None:
    """Checks that the weights are stored as they are multiplied.

    Raises:
      ValueError: quantised weights, with the method and the way out.
    """
    quantized = hf.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method")
        raise ValueError(
            f"quantization_config has the quant_method {method!r}, which is not read; "
            "have transformers load the model with `dequantize` and save it, or take a "
            "copy in bfloat16"
        )
