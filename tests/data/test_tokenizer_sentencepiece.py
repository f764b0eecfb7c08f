"""A SentencePiece model gives SentencePiece's ids and text."""

import io
import json
import pathlib
import random
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from llmjax.data.tokenizers import tokenizer

LINES = [
    "the array of the axes of the other array",
    "def function(x, other):",
    "    return x + other.axes[1]",
    "It's naïve, isn't it? Größe \uff11\uff12 ﬁne.",
    "日本語のテキスト, 3.14",
] * 4
ALPHABET = "ab the x1. \t\n▁é☃ﬁ\uff21日</"
MARKS = ["  ", "the", " axes", "<user>", "<0x41>", "é", "ﬁ", "x", "\n", ".", "▁"]
PLAIN: dict[str, Any] = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "unigram": {"vocab_size": 130},
    "bpe": {"vocab_size": 130},
    "unigram, bytes": {"vocab_size": 380, **PLAIN},
    "bpe, bytes": {"vocab_size": 380, **PLAIN},
    "unigram, user's": {"vocab_size": 130, "user_defined_symbols": ["<user>", "<us"]},
    "bpe, user's": {"vocab_size": 130, "user_defined_symbols": ["<user>", "<us"]},
    "unigram, no prefix": {"vocab_size": 130, "add_dummy_prefix": False, "pad_id": 3},
    "bpe, spaces": {
        "vocab_size": 130,
        "allow_whitespace_only_pieces": True,
        "split_by_whitespace": False,
        "remove_extra_whitespaces": False,
        "bos_id": -1,
    },
}


def train(kind: str, **options) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=written,
        model_type=kind,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return written.getvalue()


def texts() -> list[str]:
    rng = random.Random(0)
    letters = ["".join(rng.choices(ALPHABET, k=n)) for n in range(1, 30)] * 2
    marks = ["".join(rng.choices(MARKS, k=n)) for n in range(1, 15)] * 2
    return ["", " ", *LINES[:5], "\n".join(LINES), *letters, *marks]


@pytest.mark.parametrize("name", MODELS)
def test_the_ids_and_the_text_are_sentence_pieces(
    name: str, tmp_path: pathlib.Path
) -> None:
    data = train(name.split(",")[0], **MODELS[name])
    (tmp_path / "spiece.model").write_bytes(data)
    reference = sentencepiece.SentencePieceProcessor(model_proto=data)
    loaded = tokenizer.load(tmp_path)
    (tmp_path / "saved").mkdir()
    loaded.save(tmp_path / "saved/tokenizer.json")
    for t in (loaded, tokenizer.load(tmp_path / "saved")):
        for text in texts():
            ids = reference.encode(text)
            assert t.encode(text).tolist() == ids, text
            if reference.unk_id() not in ids:
                assert t.decode(ids) == reference.decode(ids)
        assert t.vocab_size == reference.vocab_size()
        bos, pad = reference.bos_id(), reference.pad_id()
        assert t.eos_id == reference.eos_id()
        assert t.bos_id == (bos if bos >= 0 else t.eos_id)
        assert t.pad_id == (pad if pad >= 0 else t.eos_id)
    assert t.fingerprint == loaded.fingerprint


def test_names_of_specials_and_bytes_in_a_text_are_text(
    tmp_path: pathlib.Path,
) -> None:
    for kind in ("unigram", "bpe"):
        options = {**PLAIN, "vocab_size": 380, "user_defined_symbols": ["<user>"]}
        (tmp_path / "x.model").write_bytes(train(kind, **options))
        t = tokenizer.load(tmp_path / "x.model")
        text = "a<s>b</s><unk> <0x41><0xC3><s"
        ids = t.encode(text)
        assert t.decode(ids) == text
        assert not {0, t.bos_id, t.eos_id} & set(ids.tolist())
        # the one space put before the text
        assert t.token_bytes[ids].sum() == len(text.encode()) + 1
        assert t.decode([0]) == "\ufffd"


def test_word_starts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.model").write_bytes(train("unigram", vocab_size=130))
    t = tokenizer.load(tmp_path / "x.model")
    ids = t.encode("the arrays, axes. It")
    words: list[str] = []
    for i, start in zip(ids, t.word_starts(ids), strict=True):
        piece = t.decode([i])
        words = [*words, piece] if start else [*words[:-1], words[-1] + piece]
    assert words == ["the", "arrays", ",", "axes", ".", "It"]
    (end,) = t.sentence_ends(ids).nonzero()[0]
    assert t.decode(ids[: end + 1]) == "the arrays, axes."


@pytest.mark.parametrize(
    ("options", "beside", "ends"),
    [
        ({}, {}, ("<s>", "")),  # Llama's
        ({"bos_id": -1}, {}, ("", "</s>")),  # T5's
        ({}, {"add_bos_token": False, "add_eos_token": True}, ("", "</s>")),
    ],
)
def test_a_model_begins_or_else_ends(
    options: dict[str, Any],
    beside: dict[str, bool],
    ends: tuple[str, str],
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "x.model").write_bytes(train("unigram", vocab_size=130, **options))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    loaded = tokenizer.load(tmp_path)
    (tmp_path / "saved").mkdir()
    loaded.save(tmp_path / "saved/tokenizer.json")
    for t in (loaded, tokenizer.load(tmp_path / "saved")):
        ids = t.encode("the axes", special_tokens=True)
        text = t.decode(ids, special_tokens=True).replace(" ", "")
        assert text == "theaxes".join(ends)
        assert t.num_specials == 1


def test_what_is_no_model_that_is_read(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x.model"
    whole = train("unigram", vocab_size=130)
    protos: Any = sentencepiece_model_pb2
    proto = protos.ModelProto.FromString(whole)
    proto.trainer_spec.model_type = protos.TrainerSpec.WORD
    suffix = protos.ModelProto.FromString(whole)
    suffix.trainer_spec.treat_whitespace_as_suffix = True
    charsmap = protos.ModelProto.FromString(whole)
    charsmap.normalizer_spec.precompiled_charsmap = b"\xff\xff\xff\x7fabc"
    long = protos.ModelProto.FromString(train("bpe", vocab_size=130))
    long.pieces.add(piece="a" * 200_000, score=-200.0)
    for data, message in (
        (b"", "no SentencePiece model"),
        (b"\xff" * 50, "no SentencePiece model"),
        (whole[:-100], "no SentencePiece model"),
        (proto.SerializeToString(), "type WORD; accepted: UNIGRAM, BPE"),
        (suffix.SerializeToString(), "treat_whitespace_as_suffix"),
        (charsmap.SerializeToString(), "can be read: "),
        (long.SerializeToString(), "a token of 200000 characters"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"x\.model.*{message}"):
            tokenizer.load(file)
