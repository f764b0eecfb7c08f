"""Byte-level BPE loses nothing and counts bytes exactly."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data import tokenizer

TEXTS = ["the array of the axes", "def f(x):\n    return x + 1", "naïve ☃ 😀"] * 20
TOKENIZER = tokenizer.train(TEXTS, 275)


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_comes_back_and_its_bytes_add_up(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.token_bytes[ids].sum() == len(text.encode())
    np.testing.assert_array_equal(TOKENIZER.encode_batch([text])[0], ids)


def test_specials_written_in_a_text_are_text(tmp_path: pathlib.Path) -> None:
    TOKENIZER.save(tmp_path / "t.json")
    for t in (TOKENIZER, tokenizer.load(tmp_path / "t.json")):
        ids = t.encode("<bos>a<pad><eos>")
        assert not {t.pad_id, t.bos_id, t.eos_id} & set(ids.tolist())
        assert t.decode([t.bos_id, *ids, t.eos_id]) == "<bos>a<pad><eos>"


def test_training_is_deterministic_and_saving_keeps_all(tmp_path: pathlib.Path) -> None:
    assert tokenizer.train(TEXTS, 275).fingerprint == TOKENIZER.fingerprint
    assert tokenizer.train(TEXTS, 270).fingerprint != TOKENIZER.fingerprint
    TOKENIZER.save(tmp_path / "t.json")
    loaded = tokenizer.load(tmp_path / "t.json")
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert loaded.vocab_size == TOKENIZER.vocab_size == 275
    np.testing.assert_array_equal(loaded.token_bytes, TOKENIZER.token_bytes)


def test_decode_survives_half_a_character_and_names_foreign_ids() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("☂")[:1]) == "\ufffd"
    assert TOKENIZER.decode([]) == ""
    with pytest.raises(ValueError, match=r"275.*another tokenizer"):
        TOKENIZER.decode([275])


def test_errors_name_the_file_and_the_remedy(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json.*prepare_data"):
        tokenizer.load(tmp_path / "none.json")
    for content in ("{", "{}", '{"model": {"type": "WordPiece"}}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.json.*delete it"):
            tokenizer.load(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"258.*tokenizer_vocab_size"):
        tokenizer.train(TEXTS, 258)
