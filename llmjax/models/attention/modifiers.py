"""Changes of attention's scores besides the mask."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax


@dataclasses.dataclass(frozen=True)
class ScoreModifiers:
    """Changes of the scores q.k, and of the probabilities that they become.

    Attributes:
      bias: (q_positions_BT, k_positions_BS) -> [B or 1, N, T, S], added to them.
      reads_content: `bias` holds for these queries and keys as a whole, not for a part.
      softcap: c * tanh((scores + bias) / c), before the mask (Gemma 2).
      sinks_N: one more score per head, which takes probability and gives no value.
      dropout: of the probabilities.
    """

    bias: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    reads_content: bool = False
    softcap: float | None = None
    sinks_N: Any = None
    dropout: nn.Dropout | None = None

    def features(self) -> set[str]:
        """Features that an implementation must honour, by `CAPABILITIES`' names."""
        present = {
            "position bias": self.bias is not None and not self.reads_content,
            "content bias": self.bias is not None and self.reads_content,
            "softcap": self.softcap is not None,
            "sinks": self.sinks_N is not None,
            "dropout": self.dropout is not None,
        }
        return {name for name, value in present.items() if value}


UNMODIFIED = ScoreModifiers()
