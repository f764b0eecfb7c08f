"""Span corruption: spans of a text are hidden, and written out as the target."""

import dataclasses
import functools

import numpy as np

from llmjax.data.tokenizers.vocabulary import SPECIALS, Vocabulary
from llmjax.tasks.objectives.seq2seq import Lengths, TextToText

SENTINELS = tuple(token for token in SPECIALS if token.startswith("<extra_id_"))


@dataclasses.dataclass(frozen=True, eq=False)
class SpanCorruptionTask(TextToText):
    """Raffel et al. 2020, 1910.10683, 3.3.4; t5/data/preprocessors.py of their code.

    "Thank you for inviting me to your party last week." becomes the inputs "Thank you
    <X> me to your party <Y> week." and the targets "<X> for inviting <Y> last <Z>".
    The number of hidden tokens and of spans is a function of the text's length; their
    places are random. A text begins with tokens that stay and, as in their code, ends
    with a span, so that its targets need no last <Z>.
    """

    specials = SENTINELS

    @functools.cached_property
    def sentinels(self) -> np.ndarray:
        """Ids of the sentinels in order of appearance, int32 [100]."""
        return sentinel_ids(self.vocabulary)

    def check(self) -> None:
        super().check()
        density, mean_span = self.config.noise_density, self.config.mean_span
        check_spans(self.text_length, density, mean_span, "task")

    def pair(
        self, text: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        task = self.config
        noise = noise_mask(len(text), task.noise_density, task.mean_span, rng)
        return corrupt(text, noise, self.sentinels)

    def lengths(self, num_tokens: np.ndarray) -> Lengths:
        task = self.config
        return corrupted(num_tokens, task.noise_density, task.mean_span)


def sentinel_ids(vocabulary: Vocabulary) -> np.ndarray:
    """Ids of <extra_id_0>, <extra_id_1>, .., int32 [100]."""
    return np.array([vocabulary.special_id(token) for token in SENTINELS], np.int32)


def counts(
    num_tokens: np.ndarray, noise_density: float, mean_span: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hidden tokens and spans, int [n] each, of texts of `num_tokens` int [n].

    Rounded like the reference, in float32 and halves to even, with at least one of
    each and a token that stays between two spans. (The reference fails where there are
    more spans than tokens that stay; here spans are fewer.)
    """
    n = np.maximum(num_tokens, 2)
    noise = np.rint(np.float32(n) * np.float32(noise_density)).astype(np.int64)
    noise = np.clip(noise, 1, n - 1)
    spans = np.rint(np.float32(noise) / np.float32(mean_span)).astype(np.int64)
    return noise, np.clip(spans, 1, np.minimum(noise, n - noise))


def corrupted(
    num_tokens: np.ndarray, noise_density: float, mean_span: float
) -> Lengths:
    """The lengths of inputs and targets of texts of `num_tokens` int [n]."""
    noise, spans = counts(num_tokens, noise_density, mean_span)
    kept = np.maximum(num_tokens, 2) - noise
    return Lengths(kept + spans, noise + spans, kept + noise + 2 * spans)


def noise_mask(
    length: int, noise_density: float, mean_span: float, rng: np.random.Generator
) -> np.ndarray:
    """Hidden tokens, bool [length]; all masks of `counts` are equally likely."""
    numbers = counts(np.array([length]), noise_density, mean_span)
    noise, spans = (int(k[0]) for k in numbers)
    runs = np.empty(2 * spans, np.int64)
    runs[0::2] = _partition(max(length, 2) - noise, spans, rng)
    runs[1::2] = _partition(noise, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, runs)[:length]


def corrupt(
    text: np.ndarray, noise: np.ndarray, sentinels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, with a sentinel for each hidden run; targets, one for each other run.

    Args:
      text: int [n].
      noise: bool [n], the hidden tokens.
      sentinels: ids in order of appearance.
    """
    return _replace(text, noise, sentinels), _replace(text, ~noise, sentinels)


def check_spans(
    num_tokens: int, noise_density: float, mean_span: float, path: str
) -> None:
    """Raises ValueError where texts of `num_tokens` have more spans than sentinels.

    `path` is the config key of the two fields.
    """
    if noise_density <= 0:
        raise ValueError(
            f"{path}.noise_density is {noise_density}: nothing to predict; raise it"
        )
    _, (spans,) = counts(np.array([num_tokens]), noise_density, mean_span)
    if spans > len(SENTINELS):
        raise ValueError(
            f"a text of {num_tokens} tokens has {spans} spans, and there are "
            f"{len(SENTINELS)} sentinels to stand for them; raise {path}.mean_span="
            f"{mean_span}, or lower {path}.noise_density={noise_density} or the rows' "
            "length (data.seq_len, data.encoder_seq_len)"
        )


def _partition(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Sizes of `parts` runs of `items`, at least one each, all equally likely."""
    cuts = np.sort(rng.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=items)


def _replace(text: np.ndarray, hidden: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`text` with `ids[k]` for the k-th run of hidden tokens."""
    starts = hidden.copy()
    starts[1:] &= ~hidden[:-1]
    which = np.cumsum(starts) - 1
    return np.where(starts, ids[which], text)[starts | ~hidden].astype(np.int32)
