"""Learning a tokenizer from texts: byte pairs, WordPiece, Unigram; or plain bytes.

Each gives the same tokenizer for the same texts, in any process. All have the ids 0, 1,
2 for padding, beginning and end.
"""

import collections
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llmjax.data.tokenizers.byte_level import SPACE, byte_of_character

SPECIALS = ("<pad>", "<bos>", "<eos>")
WORDPIECE_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
_ALPHABET = 1000  # most frequent characters that WordPiece keeps, as BERT's
_MAX_LINE = 4000  # bytes; SentencePiece's trainer drops longer lines than 4192
_MAX_WORD = 10_000  # characters; the time to learn from one grows with its square
_RUN = re.compile(r"\S{100,}|\s{100,}")


def learned_here(vocab: Mapping[str, int]) -> bool:
    """Whether a vocabulary begins with the specials of this module's tokenizers."""
    return any(
        all(vocab.get(token) == i for i, token in enumerate(specials))
        for specials in (SPECIALS, WORDPIECE_SPECIALS)
    )


def bpe(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Byte-pair merges (Sennrich et al. 2016, arXiv:1508.07909) of bytes.

    Pre-tokenised by GPT-2's regular expression; after the specials come the 256 single
    bytes. Fewer than `vocab_size` ids if the texts hold no more.

    Raises:
      ValueError: `vocab_size` has no room for the bytes and the specials.
    """
    if vocab_size < 259:
        raise ValueError(
            f"a byte-level tokenizer of vocab_size={vocab_size} has no room for 256 "
            "bytes and 3 specials; set data.tokenizer.vocab_size to 259 or more"
        )
    inner = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(byte_of_character()),
        show_progress=False,
    )
    inner.train_from_iterator(_short_words(texts), trainer)
    return inner


def single_bytes() -> tokenizers.Tokenizer:
    """Byte b is the id b + 3, as in ByT5 (Xue et al. 2022, arXiv:2105.13626)."""
    vocab = {token: i for i, token in enumerate(SPECIALS)}
    vocab |= {c: b + len(vocab) for c, b in byte_of_character().items()}
    inner = _byte_level(models.BPE(vocab, []), words=False)
    inner.add_special_tokens(list(SPECIALS))
    return inner


def items(names: Iterable[str]) -> tokenizers.Tokenizer:
    """A token for each name, behind the specials and <unk>; a text is one of them.

    Raises:
      ValueError: the name of a special.
    """
    vocab = {token: i for i, token in enumerate((*SPECIALS, "<unk>"))}
    for name in names:
        if name in (*SPECIALS, "<unk>"):
            raise ValueError(
                f"the item {name!r} has the name of a special token; rename it"
            )
        vocab.setdefault(name, len(vocab))
    inner = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.add_special_tokens([*SPECIALS, "<unk>"])
    return inner


def _byte_level(model: models.Model, words: bool = True) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=words
    )
    inner.decoder = decoders.ByteLevel()
    return inner


def wordpiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool
) -> tokenizers.Tokenizer:
    """BERT's words and pieces (Devlin et al. 2019, arXiv:1810.04805).

    Text loses what it loses in BERT: white space, control characters, capitals and
    accents if `lowercase`, and words with a character that is not among the 1000 most
    frequent, which become [UNK]. The pieces are learned by byte-pair counts, as
    `tokenizers` does. All of `texts` is held in memory, to be read twice.

    Raises:
      ValueError: `vocab_size` has no room for the characters and the specials.
    """
    texts = list(texts)
    inner = tokenizers.Tokenizer(
        models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100)
    )
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(inner.normalizer.normalize_str(text))
    if not any(c.isalnum() for c in counts):
        raise ValueError(
            "no WordPiece tokenizer can be learned: the texts have no letters; are "
            "they empty?"
        )
    kept = [c for c, _ in counts.most_common() if not c.isspace()]
    alphabet = sorted(kept[:_ALPHABET])
    # the trainer would number a word's inner characters in the random order of its
    # hash map, and break ties between merges by those numbers: number them beforehand
    pieces = [*WORDPIECE_SPECIALS, *alphabet, *(f"##{c}" for c in alphabet)]
    if vocab_size < len(pieces):
        raise ValueError(
            f"a WordPiece tokenizer of vocab_size={vocab_size} has no room for "
            f"{len(alphabet)} characters, each at a word's start and within, and "
            f"{len(WORDPIECE_SPECIALS)} specials; set data.tokenizer.vocab_size to "
            f"{len(pieces)} or more"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=pieces,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    inner.train_from_iterator(_short_words(texts), trainer)
    vocab = inner.get_vocab(with_added_tokens=False)
    learned = tokenizers.Tokenizer(
        models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    learned.normalizer = inner.normalizer
    learned.pre_tokenizer = inner.pre_tokenizer
    learned.decoder = decoders.WordPiece()
    learned.add_special_tokens(list(WORDPIECE_SPECIALS))
    return learned


def unigram(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Unigram pieces (Kudo 2018, arXiv:1804.10959), bytes for rare characters.

    Learned by the library `sentencepiece`, because the trainer of `tokenizers` gives
    another vocabulary each time. Unlike SentencePiece's own it keeps a text exactly: no
    normalisation, no space put before it, and pieces say " ", not "▁". Ids 3 and 4 to
    259 are <unk> and the single bytes; lines are learned from one by one, so a line's
    end is a byte.

    Raises:
      ValueError: `vocab_size` has no room for the bytes, the specials and the
        characters, or the texts hold fewer pieces.
    """
    if vocab_size < 261:
        raise ValueError(
            f"a Unigram tokenizer of vocab_size={vocab_size} has no room for 256 "
            "bytes, 4 specials and a character; set data.tokenizer.vocab_size to 261 "
            "or more"
        )
    written = io.BytesIO()
    options: dict[str, Any] = {}
    for i, name in enumerate(("pad", "bos", "eos", "unk")):
        options |= {f"{name}_id": i, f"{name}_piece": f"<{name}>"}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=written,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            num_threads=1,  # more would add in another order
            minloglevel=2,
            **options,
        )
    except (RuntimeError, OSError) as e:
        raise ValueError(
            f"no Unigram tokenizer of vocab_size={vocab_size} can be learned from "
            f"these texts: {_reason(str(e))}"
        ) from e
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids = range(model.get_piece_size())
    pieces = [
        (model.id_to_piece(i).replace(SPACE, " "), model.get_score(i)) for i in ids
    ]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(r" ?\S+|\s+(?!\S)|\s+"), "isolated"
    )
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens([*SPECIALS, "<unk>"])
    return inner


def _reason(message: str) -> str:
    """An error of SentencePiece's trainer in words that name the remedy."""
    if count := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return (
            f"their characters, 256 bytes and 4 specials alone need {count[1]} ids; "
            "set data.tokenizer.vocab_size to more than that"
        )
    return f"{message or 'they hold no words'}; are they empty?"


def _short_words(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut inside a word or white space of more than `_MAX_WORD`."""
    for text in texts:
        start = 0
        for run in _RUN.finditer(text):
            for cut in range(run.start() + _MAX_WORD, run.end(), _MAX_WORD):
                yield text[start:cut]
                start = cut
        yield text[start:]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The texts' lines, the long ones cut to a length that the trainer takes."""
    for line in itertools.chain.from_iterable(t.splitlines() for t in texts):
        size = _MAX_LINE // 4  # a character has 4 bytes at most
        for start in range(0, len(line), size):
            yield line[start : start + size]
