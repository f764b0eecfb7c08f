"""UL2: several denoisers, each announced to the model by a token."""

import dataclasses
import functools

import numpy as np

from llmjax.config import Denoiser
from llmjax.tasks.objectives import span_corruption as spans
from llmjax.tasks.objectives.seq2seq import Lengths, TextToText


@dataclasses.dataclass(frozen=True, eq=False)
class UL2Task(TextToText):
    """Tay et al. 2022, 2205.05131, 3.1; `ul2_objective` of its appendix.

    R and X corrupt spans as T5 does. S (no `mean_span`) is T5's prefix language model
    without sentinels (`random_prefix_noise_mask` of t5's preprocessors.py, which the
    appendix calls): of n tokens the inputs are the first k, k uniform from (1 - 2 *
    noise_density) * (n - 1) to n - 1. The inputs begin with the denoiser's [R], [S] or
    [X]. All share one text length, the longest that fits whichever is drawn.
    """

    specials = ("[R]", "[S]", "[X]", *spans.SENTINELS)

    @functools.cached_property
    def sentinels(self) -> np.ndarray:
        """Ids of the sentinels in order of appearance, int32 [100]."""
        return spans.sentinel_ids(self.vocabulary)

    @functools.cached_property
    def _until(self) -> np.ndarray:
        """The end of each denoiser's share of [0, 1)."""
        weights = np.array([d.weight for d in self.config.denoisers])
        return np.cumsum(weights / weights.sum())

    def check(self) -> None:
        super().check()
        for i, denoiser in enumerate(self.config.denoisers):
            path = f"task.denoisers[{i}]"
            density = denoiser.noise_density
            if denoiser.mean_span is not None:
                spans.check_spans(self.text_length, density, denoiser.mean_span, path)
            elif not 0 < density <= 0.5:
                raise ValueError(
                    f"{path}.noise_density is {density}; for one span at the end (no "
                    "mean_span) it must be in (0, 0.5]"
                )

    def pair(
        self, text: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        drawn = int(np.searchsorted(self._until[:-1], rng.random(), "right"))
        denoiser: Denoiser = self.config.denoisers[drawn]
        density, mean_span = denoiser.noise_density, denoiser.mean_span
        if mean_span is None:
            (least,), (most,) = prefixes(np.array([len(text)]), density)
            inputs, targets = np.split(text, [rng.integers(least, most + 1)])
        else:
            noise = spans.noise_mask(len(text), density, mean_span, rng)
            inputs, targets = spans.corrupt(text, noise, self.sentinels)
        if self.config.mode_tokens:
            mode = self.vocabulary.special_id(f"[{denoiser.mode}]")
            inputs = np.concatenate([np.array([mode], np.int32), inputs])
        return inputs, targets

    def lengths(self, num_tokens: np.ndarray) -> Lengths:
        each = [_lengths(num_tokens, d) for d in self.config.denoisers]
        inputs, targets, both = np.max(each, axis=0)
        mode = int(self.config.mode_tokens)
        return Lengths(inputs + mode, targets, both + mode)


def prefixes(
    num_tokens: np.ndarray, noise_density: float
) -> tuple[np.ndarray, np.ndarray]:
    """The fewest and the most tokens of a prefix, for texts of `num_tokens` int [n]."""
    most = np.maximum(num_tokens - 1, 0)
    least = np.rint(np.float32(1 - 2 * noise_density) * np.float32(most))
    return np.minimum(most, np.maximum(1, least.astype(np.int64))), most


def _lengths(num_tokens: np.ndarray, denoiser: Denoiser) -> Lengths:
    if denoiser.mean_span is not None:
        return spans.corrupted(num_tokens, denoiser.noise_density, denoiser.mean_span)
    least, most = prefixes(num_tokens, denoiser.noise_density)
    return Lengths(most, num_tokens - least, num_tokens)
