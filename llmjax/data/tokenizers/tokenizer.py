"""Text to ids and back, for every kind of tokenizer.

tokenizer = make(config.data.tokenizer, texts)
ids = tokenizer.encode("Hello")
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from tokenizers import pre_tokenizers

from llmjax.config import data as config
from llmjax.data.tokenizers import chat, formats, training
from llmjax.data.tokenizers.byte_level import (
    are_words,
    begins_with_space,
    is_byte_level,
    spell,
    unknown,
)
from llmjax.data.tokenizers.vocabulary import SPECIALS, special_id

# what a tokenizer's special tokens are called that says nothing about them itself
_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("<eos>", "</s>", "[SEP]", "<|end_of_text|>", "<|endoftext|>"),
    "cls": ("<cls>", "[CLS]"),
    "sep": ("<sep>", "[SEP]"),
    "mask": ("<mask>", "[MASK]"),
    "fim_prefix": ("<fim_prefix>", "<|fim_prefix|>"),
    "fim_middle": ("<fim_middle>", "<|fim_middle|>"),
    "fim_suffix": ("<fim_suffix>", "<|fim_suffix|>"),
}
_SENTENCE_ENDS = (b".", b"!", b"?")


def _in_word(byte: bytes) -> bool:
    """Whether it is of a word; all beyond ASCII are."""
    return byte.isalnum() or byte >= b"\x80"


class Tokenizer:
    """Text to ids and back.

    Where a tokenizer has no beginning of its own (GPT-2, T5), its end stands for it,
    and the other way round; where it has no padding, its end pads. (Rows are told
    apart by segment ids, never by the padding's id.)

    Attributes:
      vocab_size: number of ids, the specials included.
      pad_id, bos_id, eos_id: the specials; no text encodes to them.
      token_bytes: int32 [vocab_size], how many UTF-8 bytes an id stands for; the
        specials stand for none. Sums to a text's size over its ids, exactly for
        byte-level tokenizers; `tokenizer_bytes.spell` says how nearly for others.
      specials: "pad", "bos", "eos", "mask"… -> the token's name.
      chat_template: jinja, or None.
      fingerprint: sha256 of the tokenizer's json, and of `specials` where those don't
        follow from it.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer | str,
        specials: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ):
        """
        Args:
          inner: of the library `tokenizers`, or its json.
          specials: as the attribute; those that are absent go by their usual names.
          chat_template: as the attribute.

        Raises:
          ValueError: neither beginning nor end, or `specials` that it doesn't have.
        """
        # a text stays as it came: the library doesn't read each number back exactly
        self._json = inner if isinstance(inner, str) else inner.to_str()
        inner = _open(self._json)
        vocab = inner.get_vocab(with_added_tokens=True)
        self._given = dict(specials or {})
        self.chat_template = chat_template
        self.specials = _specials(inner, self._given)
        self.vocab_size: int = max(vocab.values()) + 1
        self.pad_id, self.bos_id, self.eos_id = (
            vocab[self.specials[name]] for name in ("pad", "bos", "eos")
        )
        inner.add_special_tokens(sorted(set(self.specials.values())))
        described = json.loads(inner.to_str())
        self._added = {t["content"]: t["id"] for t in described["added_tokens"]}
        self._bytes = spell(described, vocab, self.vocab_size)
        self._strip = begins_with_space(described)
        self._inner = _as_text(inner, described)
        self.token_bytes = np.array([len(b) for b in self._bytes], np.int32)
        self._inside = np.array([_in_word(b[:1]) for b in self._bytes])
        self._open = np.array([_in_word(b[-1:]) for b in self._bytes])
        self._space = np.array([b == b" " for b in self._bytes])
        self._ends = np.array(
            [b"\n" in b or b.rstrip()[-1:] in _SENTENCE_ENDS for b in self._bytes]
        )
        self._shown = [*self._bytes, *(token.encode() for token in SPECIALS)]
        for token in SPECIALS:
            self._shown[self.special_id(token)] = token.encode()
        lost = vocab.get(unknown(described) or "")
        if lost is not None and lost not in (self.pad_id, self.bos_id, self.eos_id):
            self._shown[lost] = (
                " \ufffd" if are_words(described) else "\ufffd"
            ).encode()
        said = self._json
        if self._given:
            said += json.dumps(self.specials, sort_keys=True)
        self.fingerprint: str = hashlib.sha256(said.encode()).hexdigest()

    def encode(self, text: str, *, parse_specials: bool = False) -> np.ndarray:
        """The ids of `text`, int32 [n], with nothing around.

        Args:
          parse_specials: whether "<eos>" in a text is the special, as a chat template
            means it, or five characters. Only for text that no stranger wrote.
        """
        inner = self._parsing if parse_specials else self._inner
        return np.array(inner.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, in parallel."""
        found = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(e.ids, np.int32) for e in found]

    def encode_offsets(
        self, texts: Sequence[str]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text its ids, int32 [n], and the characters [start, stop) that each
        stands for, int64 [n, 2]."""
        found = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(e.ids, np.int32), np.array(e.offsets, np.int64).reshape(-1, 2))
            for e in found
        ]

    def decode(self, ids: Sequence[int | np.integer] | np.ndarray) -> str:
        """The text of `ids`; broken UTF-8 and unknown tokens become U+FFFD.

        Its own specials vanish; those of the objectives (`vocabulary.SPECIALS`) give
        their names.

        Raises:
          ValueError: an id that neither it nor an objective has.
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= len(self._shown)):
            raise ValueError(
                f"ids from {array.min()} to {array.max()} don't fit a vocabulary of "
                f"{self.vocab_size} and the objectives' {len(SPECIALS)} specials; were "
                "they made by another tokenizer?"
            )
        joined = b"".join(self._shown[i] for i in array.tolist())
        if self._strip:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", errors="replace")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """As `chat.render`; encode it with `parse_specials=True`."""
        return chat.render(
            self.chat_template,
            self.specials,
            messages,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )

    num_specials = 2

    def with_specials(self, ids: np.ndarray) -> np.ndarray:
        """<bos> ids <eos>, int32."""
        return np.concatenate([[self.bos_id], ids, [self.eos_id]]).astype(np.int32)

    def special_id(self, token: str) -> int:
        """As `Vocabulary.special_id`."""
        own = self.specials.get(token.strip("<>"), token)
        if own in self._added:
            return self._added[own]
        return special_id(token, self.vocab_size, self.bos_id, self.eos_id)

    def word_starts(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n]: False where letters and digits go on from the token before, which
        may be their one space alone."""
        starts = ~self._inside[tokens]
        starts[1:] |= ~(self._open | self._space)[tokens[:-1]]
        starts[:1] = True
        return starts

    def sentence_ends(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n]: a full stop, question or exclamation mark before white space, or
        the end of a line."""
        ends = self._ends[tokens]
        ends[:-1] &= ~self._inside[tokens[1:]]
        return ends

    def save(self, path: epath.PathLike) -> None:
        """Writes the json that `load` reads, whole or not at all.

        Names of specials and a chat template lie beside it, in
        `tokenizer_config.json`.
        """
        path = epath.Path(path)
        formats.write(path, self._json, self._given, self.chat_template)

    @functools.cached_property
    def _parsing(self) -> tokenizers.Tokenizer:
        """The same, taking names of specials in a text for them."""
        inner = _open(self._json)
        inner.add_special_tokens(sorted(set(self.specials.values())))
        return inner

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its json: the library forgets what else was set."""
        return Tokenizer, (self._json, self._given, self.chat_template)


def _as_text(
    inner: tokenizers.Tokenizer, described: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """`inner`, changed so that a special's name in a text is text.

    Some kinds hold their specials' and single bytes' names among their pieces; such a
    name is then cut behind its first character.
    """
    inner.encode_special_tokens = True
    model = described["model"]
    names = {t["content"] for t in described["added_tokens"] if t["special"]}
    names &= {p[0] if isinstance(p, list) else p for p in model["vocab"]}
    if is_byte_level(described):
        return inner
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        names &= {"".join(merge) for merge in model["merges"]}
    elif model.get("byte_fallback"):
        names |= {f"<0x{b:02X}>" for b in range(256)}
    cuts: dict[str, list[str]] = {}
    for name in sorted(names):
        cuts.setdefault(name[0], []).append(re.escape(name[1:]))
    if cuts:
        either = "|".join(
            f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in cuts.items()
        )
        cut = pre_tokenizers.Split(tokenizers.Regex(either), "merged_with_previous")
        before = [inner.pre_tokenizer] if inner.pre_tokenizer else []
        inner.pre_tokenizer = pre_tokenizers.Sequence([*before, cut])
    return inner


def _open(text: str) -> tokenizers.Tokenizer:
    """From its json, without what makes all texts equally long."""
    inner = tokenizers.Tokenizer.from_str(text)
    inner.no_padding()
    inner.no_truncation()
    return inner


def _specials(inner: tokenizers.Tokenizer, given: Mapping[str, str]) -> dict[str, str]:
    """What each special is called: as given, else by its usual names."""
    vocab = inner.get_vocab(with_added_tokens=True)
    # never what is only a piece of text, such as "<s>" learned from HTML
    added = {t.content for t in inner.get_added_tokens_decoder().values()}
    found = {name: token for name, token in given.items() if token in vocab}
    for name in ("pad", "bos", "eos"):
        if name in given and name not in found:
            raise ValueError(
                f"the tokenizer's {name}_token is {given[name]!r}, which is not among "
                f"its {len(vocab)} tokens; correct special_tokens_map.json or "
                "tokenizer_config.json"
            )
    for name, usual in _NAMES.items():
        if token := next((t for t in usual if t in added), None):
            found.setdefault(name, token)
    ends = [found[name] for name in ("eos", "bos") if name in found]
    if not ends:
        known = ", ".join([*_NAMES["bos"], *_NAMES["eos"]])
        raise ValueError(
            f"the tokenizer's {len(vocab)} tokens have neither a beginning nor an end "
            f"(such as {known}); name its eos_token in a tokenizer_config.json beside "
            "it, or train one with llmjax.data.tokenizers.tokenizer.make"
        )
    return {"pad": ends[0], "bos": ends[-1], "eos": ends[0]} | found


def make(wanted: config.TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that a config wants, learned from `texts` where it is to learn.

    The same texts give the same tokenizer, its fingerprint included.

    Raises:
      ValueError: `wanted.vocab_size` doesn't suit the kind or the texts; a broken file.
      FileNotFoundError: no such file.
    """
    if isinstance(wanted, config.TokenizerFile):
        return load(wanted.path, pattern=wanted.pattern or None)
    if isinstance(wanted, config.Bytes):
        return Tokenizer(training.single_bytes())
    if isinstance(wanted, config.WordPiece):
        size, lowercase = wanted.vocab_size, wanted.lowercase
        return Tokenizer(training.wordpiece(texts, size, lowercase))
    if isinstance(wanted, config.Unigram):
        return Tokenizer(training.unigram(texts, wanted.vocab_size))
    return train(texts, wanted.vocab_size)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """As `tokenizer_training.bpe`."""
    return Tokenizer(training.bpe(texts, vocab_size))


def load(path: epath.PathLike, *, pattern: str | None = None) -> Tokenizer:
    """As `tokenizer_files.read`."""
    return Tokenizer(*formats.read(path, pattern))
