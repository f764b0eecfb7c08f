"""The side of a tokenizer that tasks see, and the special tokens of the objectives."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

from llmjax.data.tokenizers import frame

# Special tokens behind a tokenizer's own ids, always all and in this order, so that a
# model that learned one objective goes on with another.
MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")  # around the entities of a relation
SPECIALS = (
    "<mask>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "[R]",
    "[S]",
    "[X]",
    *(f"<extra_id_{i}>" for i in range(100)),
    *MARKERS,
)
UNUSED = ("[unused{}]", "<unused{}>")  # names of ids that a vocabulary leaves free


@runtime_checkable
class Vocabulary(Protocol):
    """The side of a tokenizer that tasks see.

    Attributes:
      vocab_size: number of ids that text is made of, the tokenizer's own specials
        included.
      pad_id, bos_id, eos_id: ids of padding, beginning and end.
      token_bytes: int [vocab_size], the UTF-8 bytes that each id stands for.
      num_specials: number of tokens that `with_specials` adds.
      truncation_side: the end at which a long text loses tokens, "left" or "right".
    """

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int
    token_bytes: np.ndarray
    truncation_side: str

    @property
    def num_specials(self) -> int: ...

    def with_specials(self, ids: np.ndarray) -> np.ndarray:
        """One text with the special tokens that the family's tokenizer puts around
        it, int32 [n + num_specials]: [CLS] … [SEP] (BERT), <bos> … (Llama), … </s>
        (T5), nothing (GPT-2), <bos> … <eos> (the tokenizers learned here)."""

    def with_beginning(self, ids: np.ndarray) -> np.ndarray:
        """`ids` of a text that is to be continued, int32: with the specials that stand
        before a text, without those behind."""

    def pair_with_specials(
        self, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two texts in one row with the special tokens around them, and the token type
        of each, both int32 [n]."""

    def special_id(self, token: str) -> int:
        """Id of one of `SPECIALS`, "<cls>" or "<sep>".

        The tokenizer's own where it has one; else "<cls>" is <bos>, "<sep>" is <eos>,
        `MARKERS` are ids that it leaves unused, as BERT's [unused1], and the others lie
        behind `vocab_size`.
        """

    def word_starts(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n], True where a token begins a word."""

    def sentence_ends(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n], True for the last token of a sentence."""


@dataclasses.dataclass
class PlainVocabulary:
    """Ids without a tokenizer, for timing and tests.

    0, 1 and 2 are <pad>, <bos> and <eos>; every id is a word of one byte, and each
    tenth ends a sentence.
    """

    vocab_size: int
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    truncation_side: str = "right"

    def __post_init__(self):
        self.token_bytes: np.ndarray = np.ones(self.vocab_size, np.int32)
        self.token_bytes[:3] = 0

    @property
    def num_specials(self) -> int:
        return self._frame.num_specials

    def with_specials(self, ids: np.ndarray) -> np.ndarray:
        return self._frame.put_around(ids)[0]

    def with_beginning(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([self._frame.beginning, ids]).astype(np.int32)

    def pair_with_specials(
        self, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._frame.put_around(first, second)

    @property
    def _frame(self) -> frame.Frame:
        return frame.bert(self.bos_id, self.eos_id)

    def special_id(self, token: str) -> int:
        return special_id(token, self.vocab_size, self.bos_id, self.eos_id)

    def word_starts(self, tokens: np.ndarray) -> np.ndarray:
        return np.ones(len(tokens), bool)

    def sentence_ends(self, tokens: np.ndarray) -> np.ndarray:
        return np.asarray(tokens) % 10 == 0


def special_id(token: str, vocab_size: int, bos_id: int, eos_id: int) -> int:
    """`Vocabulary.special_id` for a tokenizer without such tokens of its own.

    Raises:
      ValueError: `token` is no special.
    """
    ends = {"<cls>": bos_id, "<sep>": eos_id}
    if token in ends:
        return ends[token]
    if token not in SPECIALS:
        raise ValueError(
            f"{token!r} is no special token; accepted: {', '.join([*ends, *SPECIALS])}"
        )
    return vocab_size + SPECIALS.index(token)
