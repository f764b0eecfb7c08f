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
from llmjax.data.tokenizers import formats, frame, offsets, streaming, training
from llmjax.data.tokenizers.byte_level import (
    are_words,
    begins_with_space,
    is_byte_level,
    spell,
    unknown,
)
from llmjax.data.tokenizers.chats import conversation
from llmjax.data.tokenizers.conventions import Conventions
from llmjax.data.tokenizers.library import library_errors
from llmjax.data.tokenizers.vocabulary import MARKERS, SPECIALS, UNUSED, special_id

# usual special tokens, for a tokenizer whose files don't name its own
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
MAX_IDS = 1 << 22  # sixteen times the largest vocabulary that ships
_SENTENCE_ENDS = (b".", b"!", b"?")
_DAMAGED = "the tokenizer can't encode a text, and its file may be damaged"


def _in_word(byte: bytes) -> bool:
    """Whether the byte belongs to a word; all beyond ASCII do."""
    return byte.isalnum() or byte >= b"\x80"


class Tokenizer:
    """Text to ids and back.

    Text is text: `encode` puts nothing around it and reads "<eos>" in it as five
    characters; `decode` leaves special tokens out. `special_tokens=True` puts the
    family's special tokens around a text, or writes them out; `parse_specials=True`
    takes those in the text for ids.

    Where a tokenizer has no beginning of its own (GPT-2, T5), its end stands for it,
    and the other way round; where it has no padding, its end pads. (Rows are told
    apart by segment ids, never by the padding's id.)

    Attributes:
      vocab_size: number of ids, the specials included.
      pad_id, bos_id, eos_id: ids of padding, beginning and end; no text encodes to
        them. Others by name: `special_id("<mask>")`, "<cls>", "<sep>", "<unk>".
      num_specials: number of tokens that `with_specials` puts around a text.
      token_bytes: int32 [vocab_size], how many UTF-8 bytes an id stands for; the
        specials stand for none. Sums to a text's size over its ids, exactly for
        byte-level tokenizers; `byte_level.spell` says how nearly for others.
      truncation_side: the end at which a long text loses tokens, "left" or "right".
      specials: "pad", "bos", "eos", "mask"… -> the token.
      added_tokens: text -> id of the tokens that no text is cut into, specials among
        them.
      begins_with_space: whether a space is put before a text that is encoded.
      chat_templates: name -> jinja; "default" is taken where none is named.
      json, frame: text of its tokenizer.json; the specials around a text.
      fingerprint: sha256 of the tokenizer's json, and of `specials` and
        `truncation_side` where those don't follow from it.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer | str,
        conventions: Conventions | None = None,
    ):
        """
        Args:
          inner: tokenizer of the library `tokenizers`, or its json.
          conventions: what its json leaves unsaid; specials that are absent go by their
            usual names.

        Raises:
          ValueError: neither beginning nor end, specials that it doesn't have, or an
            id that is absurd.
        """
        # a text stays as it came: the library doesn't read each number back exactly
        self.json = inner if isinstance(inner, str) else inner.to_str()
        inner = _open(self.json)
        vocab = inner.get_vocab(with_added_tokens=True)
        self._conventions = conventions = conventions or Conventions()
        self.chat_templates = conventions.chat_templates
        self.truncation_side = conventions.truncation_side or _direction(self.json)
        self.specials = _specials(inner, conventions.specials)
        self.vocab_size: int = max(vocab.values()) + 1
        if self.vocab_size > MAX_IDS:
            raise ValueError(
                f"the tokenizer has an id of {self.vocab_size - 1}; accepted: below "
                f"{MAX_IDS}. Is its file damaged?"
            )
        self.pad_id, self.bos_id, self.eos_id = (
            vocab[self.specials[name]] for name in ("pad", "bos", "eos")
        )
        self.frame = self._read_frame(inner, vocab)
        self.num_specials: int = self.frame.num_specials
        inner.add_special_tokens(sorted(set(self.specials.values())))
        described = json.loads(inner.to_str())
        self.added_tokens = {t["content"]: t["id"] for t in described["added_tokens"]}
        self._free = _unused(vocab)
        self._bytes = spell(described, vocab, self.vocab_size)
        self.begins_with_space = begins_with_space(described)
        self._inner = _as_text(inner, described)
        self.token_bytes = np.array([len(b) for b in self._bytes], np.int32)
        self._inside = np.array([_in_word(b[:1]) for b in self._bytes])
        self._open = np.array([_in_word(b[-1:]) for b in self._bytes])
        self._space = np.array([b == b" " for b in self._bytes])
        self._ends = np.array(
            [b"\n" in b or b.rstrip()[-1:] in _SENTENCE_ENDS for b in self._bytes]
        )
        self._shown = self._text_of_ids(described, vocab)
        identity = self.json
        if conventions.specials:
            identity += json.dumps(self.specials, sort_keys=True)
        if self.truncation_side != _direction(self.json):
            identity += self.truncation_side
        self.fingerprint: str = hashlib.sha256(identity.encode()).hexdigest()

    def _read_frame(
        self, inner: tokenizers.Tokenizer, vocab: Mapping[str, int]
    ) -> frame.Frame:
        """The special tokens around a text: the post-processor's, and the files'."""
        if inner.post_processor is None and training.learned_here(vocab):
            framed = frame.bert(self.bos_id, self.eos_id)
        else:
            framed = frame.from_post_processor(inner)
        return frame.with_ends(framed, self.bos_id, self.eos_id, self._conventions.adds)

    def _text_of_ids(
        self, described: Mapping[str, Any], vocab: Mapping[str, int]
    ) -> list[bytes]:
        """Bytes that `decode` writes for each id, those of the objectives included."""
        shown = [*self._bytes, *(token.encode() for token in SPECIALS)]
        for token in SPECIALS:
            if token not in self._free:  # these keep the names that they have
                shown[self.special_id(token)] = token.encode()
        lost = vocab.get(unknown(described) or "")
        if lost is not None and lost not in (self.pad_id, self.bos_id, self.eos_id):
            shown[lost] = (" \ufffd" if are_words(described) else "\ufffd").encode()
        return shown

    def encode(
        self, text: str, *, special_tokens: bool = False, parse_specials: bool = False
    ) -> np.ndarray:
        """The ids of `text`, int32 [n].

        Args:
          special_tokens: put around it what the model expects there (`with_specials`).
          parse_specials: whether "<eos>" in a text is the special, as a chat template
            means it, or five characters. Only for text that no stranger wrote.
        """
        inner = self._parsing if parse_specials else self._inner
        with library_errors(_DAMAGED):
            encoding = inner.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        return self.with_specials(ids) if special_tokens else ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, in parallel."""
        with library_errors(_DAMAGED):
            encodings = self._inner.encode_batch_fast(
                list(texts), add_special_tokens=False
            )
        return [np.array(e.ids, np.int32) for e in encodings]

    def encode_with_offsets(
        self, text: str, *, parse_specials: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `text`, int32 [n], and the characters [start, stop) that each
        stands for, int64 [n, 2].

        A space before a word is its token's; tokens of one character's bytes share the
        character; a token for a space that the text has not is empty. `parse_specials`:
        see `encode`.
        """
        inner = self._parsing if parse_specials else self._inner
        with library_errors(_DAMAGED):
            encoding = inner.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        library = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        sizes, spaces = self.token_bytes[ids], self._space[ids]
        return ids, offsets.correct(text, library, sizes, spaces)

    def with_specials(self, ids: np.ndarray) -> np.ndarray:
        """`ids` with the special tokens that the model expects around one text."""
        return self.frame.put_around(ids)[0]

    def with_beginning(self, ids: np.ndarray) -> np.ndarray:
        """`ids` of a text that is to be continued: with the specials that stand before
        a text, without those behind; the beginning alone where nothing else is left."""
        start = list(self.frame.beginning)
        if not start and not len(ids):
            start = [self.bos_id]
        return np.concatenate([start, ids]).astype(np.int32)

    def pair_with_specials(
        self, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two texts with the special tokens around them, and each token's type."""
        return self.frame.put_around(first, second)

    def decode(
        self,
        ids: Sequence[int | np.integer] | np.ndarray,
        *,
        special_tokens: bool = False,
    ) -> str:
        """The text of `ids`; broken UTF-8 and unknown tokens become U+FFFD.

        The objectives' specials (`vocabulary.SPECIALS`) give their names. Ids that are
        no token's give nothing, as in transformers: a model's table is often padded
        beyond the vocabulary, and may draw such a row.

        Args:
          special_tokens: write the tokenizer's own specials too, or leave them out.

        Raises:
          ValueError: a negative id.
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        if array.size and array.min() < 0:
            raise ValueError(
                f"the id {array.min()} is negative; were these made by a tokenizer?"
            )
        names = self._added_names if special_tokens else {}
        shown = self._shown
        joined = b"".join(
            names.get(i, shown[i] if i < len(shown) else b"") for i in array.tolist()
        )
        if self.begins_with_space:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", errors="replace")

    def stream(self, *, goes_on: bool = False) -> streaming.TextStream:
        """Decodes ids that come one after the other, as `decode` does all of them.

        Args:
          goes_on: the ids continue a text, whose space before the first word stays.
        """
        return streaming.TextStream(self._shown, self.begins_with_space and not goes_on)

    def spelling(self, id: int) -> bytes:
        """The bytes that one id stands for; of an added token, its name."""
        shown = self._shown[id] if id < len(self._shown) else b""
        return self._added_names.get(id, shown)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> str:
        """The text of a conversation, by `conversation.render`, which has the options.

        Its template writes the special tokens: encode it with `parse_specials=True`,
        and without `special_tokens`. It sees the specials that the files name, or all
        where they name none.
        """
        specials = self._conventions.specials or self.specials
        return conversation.render(self.chat_templates, specials, messages, **options)

    def special_id(self, token: str) -> int:
        """Id of a special token by its usual name; see `Vocabulary.special_id`."""
        own = self.specials.get(token.strip("<>"), token)
        if own in self.added_tokens:
            return self.added_tokens[own]
        if token in self._free:
            return self._free[token]
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
        formats.write(epath.Path(path), self.json, self._conventions)

    @functools.cached_property
    def _added_names(self) -> dict[int, bytes]:
        """The added tokens, the specials among them, by id."""
        return {i: token.encode() for token, i in self.added_tokens.items()}

    @functools.cached_property
    def _parsing(self) -> tokenizers.Tokenizer:
        """The library's tokenizer, which takes specials in a text for their ids."""
        inner = _open(self.json)
        inner.add_special_tokens(sorted(set(self.specials.values())))
        inner.post_processor = None  # it may trim offsets
        return inner

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its json: the library forgets what else was set."""
        return Tokenizer, (self.json, self._conventions)


def _unused(vocab: Mapping[str, int]) -> dict[str, int]:
    """The ids of `MARKERS` among those that a vocabulary leaves free; {}: too few."""
    for pattern in UNUSED:
        names = [pattern.format(k) for k in range(1, len(MARKERS) + 1)]
        if all(name in vocab for name in names):
            return {m: vocab[n] for m, n in zip(MARKERS, names, strict=True)}
    return {}


def _as_text(
    inner: tokenizers.Tokenizer, described: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """`inner`, changed so that a special's name in a text is text.

    Some kinds hold their specials' and single bytes' names among their pieces; such a
    name is then cut behind its first character.
    """
    inner.encode_special_tokens = True
    inner.post_processor = None  # it may trim offsets; its specials are in the frame
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


def _direction(text: str) -> str:
    """The end that a tokenizer's json cuts, as its library does."""
    cut = json.loads(text).get("truncation") or {}
    return "left" if cut.get("direction") == "Left" else "right"


def _open(text: str) -> tokenizers.Tokenizer:
    """The library's tokenizer from its json, without padding and truncation."""
    inner = tokenizers.Tokenizer.from_str(text)
    inner.no_padding()
    inner.no_truncation()
    return inner


def _specials(inner: tokenizers.Tokenizer, named: Mapping[str, str]) -> dict[str, str]:
    """Name of each special -> its token: the one `named`, else a usual one."""
    vocab = inner.get_vocab(with_added_tokens=True)
    # never what is only a piece of text, such as "<s>" learned from HTML
    added = {t.content for t in inner.get_added_tokens_decoder().values()}
    specials = {name: token for name, token in named.items() if token in vocab}
    for name in ("pad", "bos", "eos"):
        if name in named and name not in specials:
            raise ValueError(
                f"the tokenizer's {name}_token is {named[name]!r}, which is not among "
                f"its {len(vocab)} tokens; correct special_tokens_map.json or "
                "tokenizer_config.json"
            )
    for name, usual in _NAMES.items():
        if token := next((t for t in usual if t in added), None):
            specials.setdefault(name, token)
    ends = [specials[name] for name in ("eos", "bos") if name in specials]
    if not ends:
        accepted = ", ".join([*_NAMES["bos"], *_NAMES["eos"]])
        raise ValueError(
            f"the tokenizer's {len(vocab)} tokens have neither a beginning nor an end "
            f"(such as {accepted}); name its eos_token in a tokenizer_config.json "
            "beside it, or train one with llmjax.data.tokenizers.tokenizer.make"
        )
    return {"pad": ends[0], "bos": ends[-1], "eos": ends[0]} | specials


def make(kind: config.TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a config, learned from `texts` where it is to learn.

    The same texts give the same tokenizer, its fingerprint included.

    Raises:
      ValueError: `kind.vocab_size` doesn't suit the kind or the texts; a broken file.
      FileNotFoundError: no such file.
    """
    if isinstance(kind, config.TokenizerFile):
        return load(kind.path, pattern=kind.pattern or None)
    if isinstance(kind, config.Bytes):
        return Tokenizer(training.single_bytes())
    if isinstance(kind, config.Items):
        return Tokenizer(training.items(texts))
    if isinstance(kind, config.WordPiece):
        return Tokenizer(training.wordpiece(texts, kind.vocab_size, kind.lowercase))
    if isinstance(kind, config.Unigram):
        return Tokenizer(training.unigram(texts, kind.vocab_size))
    return train(texts, kind.vocab_size)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE learned from `texts`, by `training.bpe`."""
    return Tokenizer(training.bpe(texts, vocab_size))


def load(path: epath.PathLike, *, pattern: str | None = None) -> Tokenizer:
    """The tokenizer in a file or a folder, read by `formats.read`."""
    return Tokenizer(*formats.read(path, pattern))
