"""Numbers that are not finite end what made them, before anything is kept of them."""

import math
from collections.abc import Mapping
from typing import Any

from llmjax.config import Precision
from llmjax.models import finite


class NotFiniteError(ValueError):
    """A loss, a metric, a gradient or a weight became infinite or not a number."""


def check(
    metrics: Mapping[str, float], what: str, weights: Any, precision: Precision
) -> None:
    """Raises NotFiniteError where a metric is not finite, with the reason.

    Args:
      metrics: to look at.
      what: they are of, the subject of the error.
      weights, precision: see `llmjax.models.finite.reason`.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            why = finite.reason(weights, precision)
            raise NotFiniteError(f"{what}: {name} is {value}; {why}")
