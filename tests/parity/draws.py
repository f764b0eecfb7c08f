"""Weights and inputs drawn by numpy, so that both sides have them without a file.

A weight is a function of (its name at the hub, its shape, a seed), an input of
(variant, sizes, seed).
"""

import dataclasses
import zlib
from collections.abc import Iterator

import numpy as np

from tests.parity.shapes import Shapes, Variant

NEW_TOKENS = 8
ROWS = 3


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One batch of three rows, and prompts.

    Attributes:
      tokens: int32 [B, T]. Row 0 is full; row 1 starts with padding where the family
        allows it; row 2 ends with padding.
      segment_ids: 1 for tokens, 0 for padding.
      positions: counted from each row's first token.
      token_types: int32 [B, T], or None.
      encoder_tokens, encoder_segment_ids: int32 [B, S], padded on the right, or None.
      hidden_mask: XLNet's query stream: bool [B, T, T], True where a query does not
        see a key; or None.
      prompts: prompts that greedy decoding continues.
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    token_types: np.ndarray | None = None
    encoder_tokens: np.ndarray | None = None
    encoder_segment_ids: np.ndarray | None = None
    hidden_mask: np.ndarray | None = None
    prompts: tuple[tuple[int, ...], ...] = ()

    def rows(self) -> Iterator["Inputs"]:
        """Each row as a batch of its own."""
        for b, prompt in enumerate(self.prompts):
            arrays = {
                field.name: value[b : b + 1]
                for field in dataclasses.fields(self)
                if isinstance(value := getattr(self, field.name), np.ndarray)
            }
            yield dataclasses.replace(self, **arrays, prompts=(prompt,))


def norms_around(variant: str) -> float:
    """The mean of a variant's norm weights: scales are around 0.6, and Gemma adds 1.

    Larger ones make softmax steep, and rounding loud.
    """
    return -0.4 if variant.startswith("gemma") else 0.6


def weight(
    name: str, shape: tuple[int, ...], seed: int, norms: float = 0.0
) -> np.ndarray:
    """Float32; weights of norms around `norms`, all else, biases too, around 0.

    A matrix about keeps the size of what it multiplies, from whichever side, so that
    the model doesn't blow up rounding.
    """
    # RandomState: its stream is the same in every version of numpy
    rng = np.random.RandomState([zlib.crc32(name.encode()), seed])
    scale_of_norm = len(shape) == 1 and name.endswith(".weight")
    std = 0.3 if len(shape) == 1 else float(np.prod(shape)) ** -0.25
    if name.endswith("Attention.q.weight"):
        std *= 0.4  # T5 does not scale its scores: its queries' weights do
    return (norms * scale_of_norm + std * rng.standard_normal(shape)).astype(np.float32)


def cotangent(shape: tuple[int, ...], segment_ids: np.ndarray, seed: int) -> np.ndarray:
    """The factors of the logits in the sum that is differentiated; 0 at padding."""
    drawn = weight("cotangent", shape, seed)
    if len(shape) == 2 and shape != segment_ids.shape:
        return drawn  # pooled, [B, D]
    return drawn * segment_ids.reshape(segment_ids.shape + (1,) * (len(shape) - 2))


def inputs(variant: Variant, shapes: Shapes, seed: int) -> Inputs:
    """Random tokens, none of which is a special one."""
    rng = np.random.default_rng([zlib.crc32(variant.name.encode()), seed])
    pad = variant.config.get("pad_token_id", 0)

    def rows(length: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
        tokens = rng.integers(3, shapes.V - 1, (ROWS, length))
        real = np.ones((ROWS, length), np.int32)
        real[1, slice(None, 3) if left else slice(-3, None)] = 0
        real[2, -4:] = 0
        return np.where(real, tokens, pad).astype(np.int32), real

    tokens, real = rows(shapes.T, variant.left_padding)
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0).astype(np.int32)
    types = hidden = encoder = encoder_real = None
    if variant.token_types:
        types = rng.integers(0, variant.token_types, tokens.shape).astype(np.int32)
    if variant.two_stream:
        hidden = factorisation(rng, real)
    lengths = (5, 3, 4)
    start: tuple[int, ...] = ()
    if variant.kind == "encoder-decoder":
        encoder, encoder_real = rows(shapes.S, left=False)
        start, lengths = (variant.config["decoder_start_token_id"],), (1, 1, 1)
    prompts = tuple(
        (*start, *rng.integers(3, shapes.V - 1, n).tolist()) for n in lengths
    )
    return Inputs(
        tokens, real, positions, types, encoder, encoder_real, hidden, prompts
    )


def factorisation(rng: np.random.Generator, real: np.ndarray) -> np.ndarray:
    """Two thirds of each row are targets in a random order; the rest all may see.

    A target does not see itself nor targets after it. Nobody sees padding.
    """
    B, T = real.shape
    order = rng.permuted(np.tile(np.arange(T), (B, 1)), axis=1)
    order[order < T // 3] = -1
    after = order[:, None, :] >= order[:, :, None]
    target = order[:, None, :] >= 0
    return (target & after) | (real[:, None, :] == 0)
