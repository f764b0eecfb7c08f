"""What tasks ask of a tokenizer, and the special tokens of the objectives."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

# Behind a tokenizer's own ids, always in this order, whichever of them a task uses:
# a model that learned one objective goes on with another.
SPECIALS = (
    "<mask>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "[R]",
    "[S]",
    "[X]",
    *(f"<extra_id_{i}>" for i in range(100)),
)


@runtime_checkable
class Vocabulary(Protocol):
    """What tasks ask of a tokenizer.

    Attributes:
      vocab_size: ids that text is made of, the tokenizer's own specials included.
      pad_id, bos_id, eos_id: of its specials.
      token_bytes: int [vocab_size], the UTF-8 bytes that each id stands for.
      num_specials: tokens that `with_specials` adds to a text.
    """

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int
    token_bytes: np.ndarray
    num_specials: int

    def with_specials(self, ids: np.ndarray) -> np.ndarray:
        """Int32 ids of one text with the special tokens around it."""

    def special_id(self, token: str) -> int:
        """Of one of `SPECIALS`, "<cls>" or "<sep>".

        Its own where it has one; else "<cls>" is <bos>, "<sep>" is <eos>, and the
        others lie behind `vocab_size`.
        """

    def word_starts(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n], True where a token begins a word."""

    def sentence_ends(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n], True for the last token of a sentence."""


@dataclasses.dataclass
class PlainVocabulary:
    """Ids without a tokenizer, to time and test with.

    0, 1 and 2 are <pad>, <bos> and <eos>; every id is a word of one byte, and each
    tenth ends a sentence.
    """

    vocab_size: int
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    num_specials: int = 2

    def __post_init__(self):
        self.token_bytes: np.ndarray = np.ones(self.vocab_size, np.int32)
        self.token_bytes[:3] = 0

    def with_specials(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([[self.bos_id], ids, [self.eos_id]]).astype(np.int32)

    def special_id(self, token: str) -> int:
        return special_id(token, self.vocab_size, self.bos_id, self.eos_id)

    def word_starts(self, tokens: np.ndarray) -> np.ndarray:
        return np.ones(len(tokens), bool)

    def sentence_ends(self, tokens: np.ndarray) -> np.ndarray:
        return np.asarray(tokens) % 10 == 0


def special_id(token: str, vocab_size: int, bos_id: int, eos_id: int) -> int:
    """`Vocabulary.special_id` of a tokenizer that has none of the tokens itself.

    Raises:
      ValueError: `token` is no special.
    """
    frame = {"<cls>": bos_id, "<sep>": eos_id}
    if token in frame:
        return frame[token]
    if token not in SPECIALS:
        raise ValueError(
            f"{token!r} is no special token; accepted: {', '.join([*frame, *SPECIALS])}"
        )
    return vocab_size + SPECIALS.index(token)
