"""Text to text: a text becomes inputs and targets, in two streams or in one."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from llmjax.tasks.objectives.language import LanguageObjective


class Lengths(NamedTuple):
    """The most tokens of the inputs and targets of n texts, without any <eos>.

    Attributes:
      inputs, targets: int [n] each.
      both: inputs and targets together, int [n].
    """

    inputs: np.ndarray
    targets: np.ndarray
    both: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TextToText(LanguageObjective):
    """Inputs and targets of one text in each row.

    For an encoder-decoder (Raffel et al. 2020, 2.1) the encoder reads inputs <eos>; the
    decoder reads <bos> targets and predicts targets <eos>. A decoder reads both as one
    text, <bos> inputs <eos> targets, and predicts targets <eos>; up to the first <eos>
    the text is a prefix that sees itself, the layout of seqio's
    PrefixLMFeatureConverter. There is no `num_bytes`: targets are not text alone, so
    bits per byte would compare with no other objective's.
    """

    architectures = ("encoder_decoder", "decoder")
    packings = ("chunk", "pad")

    @abc.abstractmethod
    def pair(
        self, text: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 each, of a text int32 [n], without <eos>."""

    @abc.abstractmethod
    def lengths(self, num_tokens: np.ndarray) -> Lengths:
        """The lengths of the pairs of texts of `num_tokens` int [n]."""

    @functools.cached_property
    def text_length(self) -> int:
        """The longest text that fits, as all shorter ones do; 0: none."""
        data = self.run.data
        encoder, decoder = data.encoder_seq_len or data.seq_len, data.seq_len
        texts = np.arange(1, encoder + decoder)  # no token is lost: none is longer
        inputs, targets, both = self.lengths(texts)
        if self._two_streams:
            fits = (inputs + 1 <= encoder) & (targets + 1 <= decoder)
        else:
            fits = both + 2 <= decoder
        return int(np.argmin(fits)) if not fits.all() else len(texts)

    def check(self) -> None:
        """Raises ValueError where no text fits the rows."""
        if self.text_length < 1:
            data = self.run.data
            keys = f"data.seq_len={data.seq_len}"
            if self._two_streams:
                keys += f" or data.encoder_seq_len={data.encoder_seq_len}"
            raise ValueError(
                f"task {self.config.kind!r} fits no text into rows of {keys}; raise it"
            )

    def features(
        self, example: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`tokens` and `targets` [t]; beside them `encoder_tokens`, or a decoder's
        `prefix` (bool) and `weights`."""
        inputs, targets = self.pair(example["tokens"].astype(np.int32), rng)
        bos = np.array([self.vocabulary.bos_id], np.int32)
        eos = np.array([self.vocabulary.eos_id], np.int32)
        inputs, targets = np.append(inputs, eos), np.append(targets, eos)
        if self._two_streams:
            return two_streams(inputs, targets, self.vocabulary.bos_id)
        place = np.arange(len(inputs) + len(targets))
        return {
            "tokens": np.concatenate([bos, inputs, targets[:-1]]),
            "targets": np.concatenate([inputs, targets]),
            "prefix": place <= len(inputs),
            "weights": (place >= len(inputs)).astype(np.int32),
        }

    def length(self, num_tokens: int) -> int:
        """The most tokens of the longer stream, for a text of `num_tokens`."""
        lengths = self.lengths(np.array([num_tokens]))
        if self._two_streams:
            return int(max(lengths.inputs[0], lengths.targets[0])) + 1
        return int(lengths.both[0]) + 2

    @property
    def _two_streams(self) -> bool:
        return self.run.model.architecture == "encoder_decoder"


def two_streams(
    inputs: np.ndarray, targets: np.ndarray, start: int
) -> dict[str, np.ndarray]:
    """The row of an encoder-decoder: the decoder reads `start` and the targets, int32
    with their ends, and predicts them one step ahead."""
    return {
        "encoder_tokens": inputs,
        "tokens": np.concatenate([[np.int32(start)], targets[:-1]]).astype(np.int32),
        "targets": targets,
    }
