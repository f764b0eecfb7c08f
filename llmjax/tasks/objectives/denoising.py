"""Denoising as BART does it: the whole text is written from a damaged copy."""

import dataclasses
import functools
import math

import numpy as np

from llmjax.tasks.objectives.seq2seq import Lengths, TextToText


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingTask(TextToText):
    """Lewis et al. 2020, 1910.13461, 2.2; fairseq/data/denoising_dataset.py.

    In its order: sentences change places, spans of words become one <mask> each, tokens
    are deleted, the text is rotated. The targets are the text as it was.
    """

    specials = ("<mask>",)

    @functools.cached_property
    def mask_id(self) -> int:
        return self.vocabulary.special_id("<mask>")

    def pair(
        self, text: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        task, inputs = self.config, text
        if task.permute_sentences:
            ends = self.vocabulary.sentence_ends(inputs)
            inputs = permute_sentences(inputs, ends, task.permute_sentences, rng)
        if task.infilling:
            starts = self.vocabulary.word_starts(inputs)
            share, mean_span = task.infilling, task.poisson_lambda
            inputs = infill(inputs, starts, share, mean_span, self.mask_id, rng)
        if task.deletion:
            inputs = delete(inputs, inputs != self.mask_id, task.deletion, rng)
        if len(inputs) and rng.random() < task.rotation:
            inputs = np.roll(inputs, -rng.integers(len(inputs)))
        return inputs, text

    def lengths(self, num_tokens: np.ndarray) -> Lengths:
        return Lengths(num_tokens, num_tokens, 2 * num_tokens)


def permute_sentences(
    text: np.ndarray, ends: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """`text` int [n] with ceil(`share` of its sentences) in each other's places.

    `ends`, bool [n], are the last tokens of sentences; what follows the last is one.
    """
    sentence = np.cumsum(ends) - ends
    count = int(sentence[-1]) + 1 if len(text) else 0
    moved = rng.permutation(count)[: math.ceil(count * share)]
    place = np.arange(count)
    place[moved] = rng.permutation(moved)
    return text[np.argsort(place[sentence], kind="stable")]


def infill(
    text: np.ndarray,
    word_starts: np.ndarray,
    share: float,
    mean_span: float,
    mask_id: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """`text` int [n] with one mask for each of some spans of words.

    The lengths of the spans, Poisson about `mean_span` words, add up to ceil(`share` of
    the words), the last cut to that. They begin at different random words and may run
    into each other; then the later mask is hidden by the earlier span, so that fewer
    words vanish: 27 % for a share of 30 % and a mean of 3. A span of no words is a mask
    put anywhere; of these there are no more than keep the text from growing, which only
    very short ones would.
    """
    (starts,) = np.nonzero(word_starts)
    budget = math.ceil(np.float32(len(starts)) * np.float32(share))
    if not budget:
        return text
    lengths = span_lengths(budget, mean_span, rng)
    spans = lengths[lengths > 0]
    words = rng.permutation(len(starts))[: len(spans)]
    first = starts[words]
    behind = np.append(starts, len(text))[np.minimum(words + spans, len(starts))]
    masked = text.copy()
    masked[first] = mask_id
    # +1 behind a span's mask, -1 behind the span: above 0 inside of spans
    change = np.bincount(first + 1, minlength=len(text) + 1)
    change -= np.bincount(behind, minlength=len(text) + 1)
    masked = masked[np.cumsum(change)[:-1] == 0]
    added = min(len(lengths) - len(spans), len(text) - len(masked))
    return insert(masked, added, mask_id, rng)


def insert(
    text: np.ndarray, added: int, token: int, rng: np.random.Generator
) -> np.ndarray:
    """`text` int [n] and `added` times `token` among it, all places as likely."""
    out = np.full(len(text) + added, token, np.int32)
    kept = np.ones(len(out), bool)
    kept[rng.choice(len(out), added, replace=False)] = False
    out[kept] = text
    return out


def span_lengths(budget: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson lengths up to and with the one that reaches `budget`, cut to reach it."""
    lengths = rng.poisson(mean, budget)
    while lengths.sum() < budget:
        lengths = np.append(lengths, rng.poisson(mean, budget))
    until = np.cumsum(lengths)
    last = int(np.searchsorted(until, budget))
    lengths[last] -= until[last] - budget
    return lengths[: last + 1]


def delete(
    text: np.ndarray, may: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """`text` int [n] without ceil(`share`) of its tokens, of those that `may` go."""
    (places,) = np.nonzero(may)
    count = math.ceil(np.float32(len(places)) * np.float32(share))
    return np.delete(text, rng.choice(places, count, replace=False))
