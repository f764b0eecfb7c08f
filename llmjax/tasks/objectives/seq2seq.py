"""What tasks share that turn a text into inputs and targets, both of them text."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from llmjax.tasks.objectives.language import language_loss, likeliest
from llmjax.tasks.task import Batch, Loss, Objective, Params


class Lengths(NamedTuple):
    """The most tokens that texts of some lengths may become, without any <eos>.

    Attributes:
      inputs, targets: int [n] each.
      both: of inputs and targets together, int [n].
    """

    inputs: np.ndarray
    targets: np.ndarray
    both: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TextToText(Objective):
    """(inputs, targets) as features; a text a row.

    For an encoder-decoder (Raffel et al. 2020, 2.1) the encoder reads inputs <eos>; the
    decoder reads <bos> targets and predicts targets <eos>. A decoder reads both as one
    text, <bos> inputs <eos> targets, whose beginning up to the first <eos> is a prefix
    that sees itself (as seqio's PrefixLMFeatureConverter lays it out); it predicts
    targets <eos>. There is no `num_bytes`: targets are not text alone, so bits per byte
    would compare with no other objective's.
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
        """How long the pairs of texts of `num_tokens` int [n] may become."""

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
            return {
                "encoder_tokens": inputs,
                "tokens": np.concatenate([bos, targets[:-1]]),
                "targets": targets,
            }
        place = np.arange(len(inputs) + len(targets))
        return {
            "tokens": np.concatenate([bos, inputs, targets[:-1]]),
            "targets": np.concatenate([inputs, targets]),
            "prefix": place <= len(inputs),
            "weights": (place >= len(inputs)).astype(np.int32),
        }

    def length(self, num_tokens: int) -> int:
        """The most that the longer stream has, of a text of `num_tokens`."""
        made = self.lengths(np.array([num_tokens]))
        if self._two_streams:
            return int(max(made.inputs[0], made.targets[0])) + 1
        return int(made.both[0]) + 2

    def loss(self, model: nn.Module) -> Loss:
        return language_loss(model, self.config.z_loss, self.config.label_smoothing)

    def predict(self, model: nn.Module) -> Callable[[Params, Batch], Any]:
        """The likeliest next token at every place of the decoder, int [B, T]."""
        return likeliest(model)

    @property
    def _two_streams(self) -> bool:
        return self.run.model.architecture == "encoder_decoder"
