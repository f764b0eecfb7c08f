"""Prefix language modelling: the rest of a text from its beginning, seen both ways."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from llmjax.tasks.objectives.causal_lm import CausalLMTask


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixLMTask(CausalLMTask):
    """Raffel et al. 2020, arXiv:1910.10683, 3.2.1 and 3.2.4.

    As in `random_prefix_noise_mask` of t5's preprocessors.py, the prefix is a uniform
    number of tokens, at least one and not all; `min_prefix` and `max_prefix` narrow
    it. <bos> belongs to it. Every token of a text sees its prefix, and only tokens
    after it are predicted.
    """

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Features of causal language modelling, with `prefix` (bool) and `weights`."""
        length = self.prefix_length(len(example["tokens"]), rng)
        causal = super().features(example, rng)
        place = np.arange(len(causal["tokens"]))
        # the prefix's last token sees nothing of what it predicts
        weights = (place >= length).astype(np.int32)
        return {**causal, "prefix": place <= length, "weights": weights}

    def prefix_length(self, num_tokens: int, rng: np.random.Generator) -> int:
        """Tokens of a text's prefix; at least one token is left."""
        most = max(num_tokens - 1, 0)
        low = min(max(math.ceil(self.config.min_prefix * num_tokens), 1), most)
        high = min(math.floor(self.config.max_prefix * num_tokens), most)
        return int(rng.integers(low, max(low, high) + 1))
