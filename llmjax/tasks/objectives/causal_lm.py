"""Causal language modelling: predict each token from those before it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from llmjax.tasks.objectives.language import LanguageObjective


@dataclasses.dataclass(frozen=True, eq=False)
class CausalLMTask(LanguageObjective):
    """Radford et al. 2018; every token of text <eos> is predicted once, after <bos>."""

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and, one step ahead, `targets` with their `num_bytes`."""
        vocabulary = self.vocabulary
        text = example["tokens"].astype(np.int32)
        targets = np.append(text, np.int32(vocabulary.eos_id))
        return {
            "tokens": np.concatenate([[np.int32(vocabulary.bos_id)], text]),
            "targets": targets,
            "num_bytes": self.token_bytes[targets],
        }

    def length(self, num_tokens: int) -> int:
        return num_tokens + 1
