"""Tokenizers of every kind: what comes back, what is counted, what is learned again."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from llmjax.config import data as config
from llmjax.data.tokenizers import tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.data.tokenizers.vocabulary import SPECIALS, Vocabulary

TEXTS = ["the array of the axes", "def f(x):\n    return x + 1", "naïve ☃ 😀"] * 20
KINDS: dict[str, config.TokenizerConfig] = {
    "bpe": config.BPE(275),
    "wordpiece": config.WordPiece(65),
    "unigram": config.Unigram(310),
    "byte": config.Bytes(),
}
MADE = {name: tokenizer.make(kind, TEXTS) for name, kind in KINDS.items()}
EXACT = ("bpe", "unigram", "byte")
TOKENIZER = MADE["bpe"]
MARKS = ["<eos>", "<pad>", "<unk>", "<0x41>", "[SEP]", "▁", " ", "the", "\r\n", "\0"]


@pytest.mark.parametrize("name", EXACT)
@settings(deadline=None, max_examples=80)
@given(st.one_of(st.text(), st.lists(st.sampled_from(MARKS)).map("".join)))
def test_any_text_comes_back_and_its_bytes_add_up(name: str, text: str) -> None:
    t = MADE[name]
    ids = t.encode(text)
    assert ids.dtype == np.int32
    assert t.decode(ids) == text
    assert t.token_bytes[ids].sum() == len(text.encode())
    np.testing.assert_array_equal(t.encode_batch([text])[0], ids)
    assert not {t.pad_id, t.bos_id, t.eos_id} & set(ids.tolist())


@pytest.mark.parametrize("name", KINDS)
def test_specials_written_in_a_text_are_text(name: str, tmp_path: pathlib.Path) -> None:
    MADE[name].save(tmp_path / "t.json")
    pickled = pickle.loads(pickle.dumps(MADE[name]))
    for t in (MADE[name], tokenizer.load(tmp_path / "t.json"), pickled):
        vocabulary: Vocabulary = t
        assert isinstance(vocabulary, Vocabulary)
        assert (t.pad_id, t.bos_id, t.eos_id) == (0, 1, 2)
        assert t.token_bytes[:3].sum() == 0
        text = "<bos>a<pad><eos>[SEP][PAD]<0x41>"
        ids = t.encode(text)
        assert not {0, 1, 2} & set(ids.tolist())
        assert t.decode([1, *ids, 2]) == t.decode(ids)
        end = t.specials["eos"]
        assert t.encode(f"{end}the{end}", parse_specials=True)[[0, -1]].tolist() == [
            2,
            2,
        ]
        assert t.fingerprint == MADE[name].fingerprint
        np.testing.assert_array_equal(t.token_bytes, MADE[name].token_bytes)


def test_byte_pairs_are_what_they_were() -> None:
    """Corpora were prepared with them: the fingerprint is in their manifests."""
    golden = "8292e46239d4f2cf775b8c5b0ab2cfa251993ff78b64c514e455a1a4dd59c78f"
    assert tokenizer.train(TEXTS, 275).fingerprint == golden
    assert TOKENIZER.fingerprint == golden
    assert tokenizer.train(TEXTS, 270).fingerprint != golden


MANY = [chr(0x4E00 + (i * 7) % 1300) * 2 + " tie tow ate" for i in range(1300)] + TEXTS
LEARN = (config.BPE(400), config.WordPiece(2100), config.Unigram(1700))
AGAIN = """
from llmjax.data.tokenizers import tokenizer
from tests.data.test_tokenizer import LEARN, MANY
print(*(tokenizer.make(kind, MANY).fingerprint for kind in LEARN))
"""


def test_another_process_learns_the_same() -> None:
    """Characters beyond the alphabet and merges that are as frequent tie everywhere."""
    command = [sys.executable, "-c", AGAIN]
    other = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    here = [tokenizer.make(kind, MANY).fingerprint for kind in LEARN]
    assert len(set(here)) == 3
    assert other.stdout.split() == here


def test_bytes_are_byt5s_but_for_the_specials() -> None:
    t = MADE["byte"]
    assert t.vocab_size == 259
    assert t.encode("aé\0").tolist() == [b + 3 for b in "aé\0".encode()]


def test_a_unigram_piece_begins_with_its_space() -> None:
    t = tokenizer.make(config.Unigram(290), ["at the axes of the axes the"] * 50)
    ids = t.encode("of the the")
    assert [t.decode([i]) for i in ids[-2:]] == [" the", " the"]


def test_what_wordpiece_loses() -> None:
    t = MADE["wordpiece"]
    ids = t.encode("The  Naïve\naxes, of☃ of ✿")
    # capitals, accents, white space; a character that was not learned is unknown
    assert t.decode(ids) == "the naive axes \ufffd of☃ of \ufffd"
    assert t.vocab_size == 65
    # " axes", " of": a word's first piece has one space more
    ids = t.encode("axes of the array")
    assert t.token_bytes[ids].sum() == len(" axes of the array")
    kept = tokenizer.make(config.WordPiece(80, lowercase=False), ["The Ärger"] * 9)
    assert kept.decode(kept.encode("The Ärger")) == "The Ärger"


@pytest.mark.parametrize("name", KINDS)
def test_words_and_sentences(name: str) -> None:
    t = tokenizer.make(KINDS[name], [*TEXTS, "the axes. (f) the naïve array!"] * 2)
    text = "the axes. naïve (array)! of x"
    ids = t.encode(text)
    starts, ends = t.word_starts(ids), t.sentence_ends(ids)
    words = [t.decode(w) for w in np.split(ids, starts.nonzero()[0][1:])]
    words = [w.strip() for w in words if w.strip()]
    expected = ["the", "axes", ".", "naïve", "(", "array", ")", "!", "of", "x"]
    if name == "wordpiece":
        expected[3] = "naive"
    assert words == expected
    sentences = np.split(ids, ends.nonzero()[0] + 1)
    last = [t.decode(s).strip()[-1] for s in sentences]
    assert last == [".", "!", "x"]
    if name in EXACT:
        assert not t.sentence_ends(t.encode("x.axes")).any()


def test_specials_of_the_objectives() -> None:
    for name, t in MADE.items():
        ids = [t.special_id(token) for token in SPECIALS]
        assert len(set(ids)) == len(ids)
        assert min(ids[1:]) >= t.vocab_size
        assert (ids[0] < t.vocab_size) == (name == "wordpiece")
        assert t.special_id("<cls>") == t.bos_id
        assert t.special_id("<sep>") == t.eos_id
        assert t.decode(ids) == "".join(SPECIALS)
        with pytest.raises(ValueError, match="'<what>' is no special token"):
            t.special_id("<what>")


def test_a_piece_of_text_is_no_special() -> None:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    trainer = trainers.BpeTrainer(show_progress=False, special_tokens=["<eos>"])
    inner.train_from_iterator(["[X]<s>", "<mask>", "<mask>"] * 9, trainer)
    learned = Tokenizer(inner)
    for piece, name in (("[X]<s>", "[X]"), ("<mask>", "<mask>")):
        assert learned.encode(piece).size == 1
        assert learned.special_id(name) >= learned.vocab_size
    assert learned.specials == {"pad": "<eos>", "bos": "<eos>", "eos": "<eos>"}


def test_decode_survives_half_a_character_and_ids_beyond_the_vocabulary() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("☂")[:1]) == "\ufffd"
    assert TOKENIZER.decode([]) == ""
    assert TOKENIZER.decode([275, 282]) == "<mask><extra_id_0>"
    assert TOKENIZER.decode([275 + len(SPECIALS), *TOKENIZER.encode("x")]) == "x"
    with pytest.raises(ValueError, match="the id -1 is negative"):
        TOKENIZER.decode([3, -1])


@pytest.mark.parametrize("name", KINDS)
def test_offsets_point_at_what_a_token_says(name: str) -> None:
    text = "the axes of x + 1"
    ids, spans = MADE[name].encode_with_offsets(text)
    np.testing.assert_array_equal(ids, MADE[name].encode(text))
    assert spans.shape == (len(ids), 2)
    for i, (start, stop) in zip(ids, spans, strict=True):
        assert text[start:stop].strip() == MADE[name].decode([i]).strip()
    assert MADE[name].encode_with_offsets("")[1].shape == (0, 2)


def test_errors_name_the_sizes_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"258.*tokenizer.vocab_size"):
        tokenizer.train(TEXTS, 258)
    with pytest.raises(ValueError, match=r"=260 has .*vocab_size to 261 or more"):
        tokenizer.make(config.Unigram(260), TEXTS)
    with pytest.raises(ValueError, match=r"=262 can.*alone need 2\d\d ids; set data"):
        tokenizer.make(config.Unigram(262), TEXTS)
    with pytest.raises(ValueError, match="Unigram.*are they empty"):
        tokenizer.make(config.Unigram(262), [])
    with pytest.raises(
        ValueError, match=r"=30 has no room for 2\d characters.* or more"
    ):
        tokenizer.make(config.WordPiece(30), TEXTS)
    with pytest.raises(ValueError, match="WordPiece.*are they empty"):
        tokenizer.make(config.WordPiece(30), iter([""]))
