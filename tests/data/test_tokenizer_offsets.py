"""The characters that each token stands for."""

import itertools
import pathlib

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from llmjax.data.tokenizers import tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from tests.data import test_tokenizer_sentencepiece as sentencepiece
from tests.data.test_tokenizer import MADE

WORDS = ["the", " ", "  ", "axes", "naïve", "☃", "😀", "\n", "<eos>", "é", "1"]
LETTERS = "theaxsnïv"


def byte_level(*, prefix: bool) -> Tokenizer:
    """The shape of GPT-2's and RoBERTa's files, whose post-processors trim the
    library's own offsets."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, "th", "the", "Ġthe", "Ġa"])}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a")]
    inner = tokenizers.Tokenizer(models.BPE(vocab, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.add_special_tokens(["<|endoftext|>"])
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return Tokenizer(inner)


def metaspace() -> Tokenizer:
    """The shape of T5's file, with bytes for what no piece spells."""
    pieces = [("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"<0x{b:02X}>", -9.0) for b in range(256)]
    pieces += [(c, -5.0) for c in ("▁", *LETTERS)] + [("▁the", -6.0), ("he", -6.0)]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, 1, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.add_special_tokens(["</s>", "<unk>"])
    return Tokenizer(inner)


def sentence_piece(folder: pathlib.Path, name: str) -> Tokenizer:
    options = sentencepiece.MODELS[name]
    data = sentencepiece.train(name.split(",")[0], **options)
    (folder / "x.model").write_bytes(data)
    return tokenizer.load(folder / "x.model")


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> dict[str, tuple[Tokenizer, bool]]:
    """Tokenizers that keep every byte, and whether a space is put before a text."""
    folder = tmp_path_factory.mktemp("models")
    return {
        **{name: (MADE[name], False) for name in ("bpe", "unigram", "byte")},
        "byte-level": (byte_level(prefix=False), False),
        "byte-level, prefix": (byte_level(prefix=True), True),
        "metaspace": (metaspace(), True),
        "sentencepiece unigram": (sentence_piece(folder, "unigram, bytes"), True),
        "sentencepiece bpe": (sentence_piece(folder, "bpe, bytes"), True),
    }


NAMES = (
    *("bpe", "unigram", "byte", "byte-level", "byte-level, prefix", "metaspace"),
    *("sentencepiece unigram", "sentencepiece bpe"),
)


def spans(t: Tokenizer, ids: np.ndarray, text: str, prefix: int) -> list[list[int]]:
    """The characters in which each token's bytes lie, counted byte by byte."""
    characters = [i for i, c in enumerate(text) for _ in c.encode()]
    stops = np.cumsum(t.token_bytes[ids]) - prefix
    assert stops[-1] == len(characters)
    starts = np.maximum(stops - t.token_bytes[ids], 0)
    return [
        [characters[start], characters[stop - 1] + 1] if start < stop else [0, 0]
        for start, stop in zip(starts, stops, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(
    text=st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="▁"), min_size=1),
        st.lists(st.sampled_from(WORDS), min_size=1).map("".join),
    )
)
def test_a_token_stands_where_its_bytes_lie(exact, name: str, text: str) -> None:
    t, puts_space = exact[name]
    # the library's steps put none where the text has one; SentencePiece does
    prefix = puts_space and ("sentencepiece" in name or text[0] != " ")
    ids, offsets = t.encode_with_offsets(text)
    np.testing.assert_array_equal(ids, t.encode(text))
    assert offsets.dtype == np.int64
    assert offsets.tolist() == spans(t, ids, text, int(prefix))


def test_words_that_were_changed_point_at_what_was_written(tmp_path) -> None:
    wordpiece = MADE["wordpiece"]
    text = "The  Naïve\naxes ✿"
    ids, offsets = wordpiece.encode_with_offsets(text)
    pieces = [text[start:stop] for start, stop in offsets]
    assert "".join(pieces) == "TheNaïveaxes✿"
    for i, piece in zip(ids[:-1], pieces, strict=False):
        assert wordpiece.decode([i]) == piece.lower().replace("ï", "i")

    nfkc = sentence_piece(tmp_path, "unigram")
    text = "  ﬁne  Ⅷ the"
    ids, offsets = nfkc.encode_with_offsets(text)
    pieces = [text[start:stop] for start, stop in offsets]
    distinct = [text[slice(*span)] for span, _ in itertools.groupby(offsets.tolist())]
    assert "".join(distinct).split() == text.split()
    (f,) = (k for k, i in enumerate(ids) if nfkc.decode([i]) == "f")
    assert pieces[f] == pieces[f + 1] == "ﬁ"  # the letters of one character share it


def test_no_text_has_no_tokens() -> None:
    for t in MADE.values():
        ids, offsets = t.encode_with_offsets("")
        assert (ids.shape, offsets.shape) == ((0,), (0, 2))
