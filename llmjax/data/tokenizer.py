"""Byte-level byte-pair encoding: any text in, the same text out."""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (Radford et al. 2019): printable bytes as they
    are, the others shifted to 256 and up, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    shifted = {chr(256 + k): b for k, b in enumerate(others)}
    return {chr(b): b for b in printable} | shifted


class Tokenizer:
    """Text to ids and back.

    Attributes:
      vocab_size: number of ids, the specials included.
      pad_id, bos_id, eos_id: the specials; no text encodes to them.
      token_bytes: int32 [vocab_size], how many UTF-8 bytes an id stands for; the
        specials stand for none. Sums to a text's size over its ids.
      fingerprint: sha256 of the tokenizer's json.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        """Raises ValueError if `inner` lacks a special or is no byte-level BPE."""
        vocab = inner.get_vocab(with_added_tokens=True)
        missing = [s for s in (PAD, BOS, EOS) if s not in vocab]
        if missing:
            raise ValueError(
                f"the tokenizer has no {', '.join(missing)} among its {len(vocab)} "
                "tokens; train it with llmjax.data.tokenizer.train"
            )
        inner.encode_special_tokens = True  # "<eos>" in a text is five characters
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        self.pad_id, self.bos_id, self.eos_id = (vocab[s] for s in (PAD, BOS, EOS))
        specials = {self.pad_id, self.bos_id, self.eos_id}
        alphabet = _byte_of_character()
        self._bytes = [b""] * self.vocab_size
        try:
            for token, i in vocab.items():
                if i not in specials:
                    self._bytes[i] = bytes(alphabet[c] for c in token)
        except (KeyError, IndexError):
            raise ValueError(
                f"the token {token!r} (id {i}) is not byte-level or its id is beyond "
                f"the vocabulary of {self.vocab_size}; "
                "train one with llmjax.data.tokenizer.train"
            ) from None
        self.token_bytes = np.array([len(b) for b in self._bytes], np.int32)
        self.fingerprint: str = hashlib.sha256(inner.to_str().encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, without specials: int32 [n]."""
        return np.array(self._inner.encode(text).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, in parallel."""
        found = self._inner.encode_batch_fast(list(texts))
        return [np.array(e.ids, np.int32) for e in found]

    def decode(self, ids: Sequence[int | np.integer] | np.ndarray) -> str:
        """The text of `ids`; specials vanish, broken UTF-8 becomes U+FFFD.

        Raises:
          ValueError: an id outside of [0, vocab_size).
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(
                f"ids from {array.min()} to {array.max()} don't fit a vocabulary of "
                f"{self.vocab_size}; were they made by another tokenizer?"
            )
        joined = b"".join(self._bytes[i] for i in array.tolist())
        return joined.decode("utf-8", errors="replace")

    def save(self, path: epath.PathLike) -> None:
        """Writes the json that `load` reads, whole or not at all."""
        path = epath.Path(path)
        temporary = path.parent / f".{path.name}.partial"
        temporary.write_text(self._inner.to_str())
        temporary.replace(path)


def load(path: epath.PathLike) -> Tokenizer:
    """The tokenizer that `save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a byte-level BPE's json.
    """
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {path}; "
            "`python -m experiments.prepare_data --config=...` makes one"
        )
    text = path.read_text()
    try:
        kind = json.loads(text)["model"]["type"]
        if kind != "BPE":
            raise ValueError(f"its model is {kind!r}, not 'BPE'")
        return Tokenizer(tokenizers.Tokenizer.from_str(text))
    except Exception as e:
        raise ValueError(
            f"{path} is not the json of a byte-level BPE tokenizer "
            f"({type(e).__name__}: {e}); delete it and prepare the data again"
        ) from e


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair merges learned from `texts` (Sennrich et al. 2016, arXiv:1508.07909).

    Pre-tokenised by GPT-2's regular expression; ids 0, 1, 2 are the specials and the
    next 256 the single bytes. Fewer than `vocab_size` ids if the texts hold no more.

    Raises:
      ValueError: `vocab_size` has no room for the bytes and the specials.
    """
    if vocab_size < 259:
        raise ValueError(
            f"a byte-level tokenizer of vocab_size={vocab_size} has no room for 256 "
            "bytes and 3 specials; set data.tokenizer_vocab_size to 259 or more"
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(_byte_of_character()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)
