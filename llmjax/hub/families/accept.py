"""Refusing what config.json asks for and we can't do."""

from typing import Any


def only(hf: dict[str, Any], **accepted: Any) -> None:
    """Checks that the keys named, where they are given, have these values.

    Raises:
      ValueError: naming the key, its value and the one accepted.
    """
    for key, value in accepted.items():
        given = hf.get(key)
        if given is not None and given != value:
            raise ValueError(f"{key} is {given!r}; accepted: {value!r}")


def unquantized(hf: dict[str, Any]) -> None:
    """Checks that the weights are stored as they are multiplied.

    Raises:
      ValueError: naming the method, with the way out.
    """
    quantized = hf.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method")
        raise ValueError(
            f"quantization_config has the quant_method {method!r}, which is not read; "
            "have transformers load the model with `dequantize` and save it, or take a "
            "copy in bfloat16"
        )
