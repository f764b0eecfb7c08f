"""The weights of a run with adapters, as those of a model without."""

import dataclasses
from typing import Any

import jax
import numpy as np

from llmjax.config import Adapters, FullTuning, RunConfig
from llmjax.peft import adapted
from llmjax.tasks.registry import make_model


def without_adapters(config: RunConfig, params: Any) -> tuple[RunConfig, Any]:
    """The config and the weights of the same model with its adapters merged."""
    if not isinstance(config.peft, Adapters):
        return config, params
    plain = dataclasses.replace(config, peft=FullTuning())
    token = jax.ShapeDtypeStruct((1, 1), np.int32)
    batch = {"tokens": token, "encoder_tokens": token}
    return plain, adapted.merged(config.peft, make_model(plain), batch, params)
