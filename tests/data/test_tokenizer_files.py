"""Tokenizers that others wrote: names of specials, chat templates, broken files."""

import base64
import json
import pathlib
import pickle

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmjax.config import data as config
from llmjax.data.tokenizers import tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer

TEXTS = ["the array of the axes", "naïve ☃"] * 20
TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ bos_token }}"
    "{% endif %}"
)


def byte_level(*specials: str) -> tokenizers.Tokenizer:
    """A tokenizer like GPT-2's, with `specials` behind its bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(specials))
    return inner


def write(folder: pathlib.Path, inner: tokenizers.Tokenizer, **names) -> None:
    inner.save(str(folder / "tokenizer.json"), pretty=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def test_what_a_folder_calls_its_specials(tmp_path: pathlib.Path) -> None:
    inner = byte_level("<|a|>", "<|b|>", "<|c|>", "<s>")
    inner.post_processor = processors.TemplateProcessing(
        single="<|a|> $A", special_tokens=[("<|a|>", 256)]
    )
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    end = {"content": "<|b|>", "special": True}
    write(tmp_path, inner, eos_token=end, chat_template=TEMPLATE, pad_token=None)
    names = {"bos_token": "<|a|>", "eos_token": "<s>", "mask_token": "<|c|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    (tmp_path / "again").mkdir()
    loaded = tokenizer.make(config.TokenizerFile(str(tmp_path)), ())
    loaded.save(tmp_path / "again/tokenizer.json")
    beside = tokenizer.load(tmp_path / "tokenizer.json")
    pickled = pickle.loads(pickle.dumps(loaded))
    for t in (loaded, beside, pickled, tokenizer.load(tmp_path / "again")):
        assert (t.bos_id, t.eos_id, t.pad_id) == (256, 257, 257)
        assert t.special_id("<mask>") == 258
        assert t.decode([256, *t.encode("the<|a|>"), 258, 257]) == "the<|a|><mask>"
        assert len(t.encode("the axes")) == 8  # nothing around, neither cut nor padded
        assert t.fingerprint == loaded.fingerprint
        text = t.apply_chat_template([{"role": "user", "content": "é"}])
        assert text == "<|a|>user: é<|b|><|a|>"
        ids = t.encode(text, parse_specials=True)
        assert ids[[0, -2, -1]].tolist() == [256, 257, 256]
        assert not set(t.encode(text).tolist()) & {256, 257}
    write(tmp_path, inner, eos_token="<|c|>")
    assert tokenizer.load(tmp_path).fingerprint != loaded.fingerprint


@pytest.mark.parametrize(
    ("specials", "pad", "bos", "eos"),
    [
        (["<|endoftext|>"], 256, 256, 256),  # GPT-2's
        (["<pad>", "</s>", "<unk>"], 256, 257, 257),  # T5's
        (["<s>", "<pad>", "</s>", "<unk>", "<mask>"], 257, 256, 258),  # RoBERTa's
        (["<|begin_of_text|>", "<|end_of_text|>"], 257, 256, 257),  # Llama 3's
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], 256, 258, 259),  # BERT's
    ],
)
def test_specials_by_their_usual_names(
    specials: list[str], pad: int, bos: int, eos: int
) -> None:
    t = Tokenizer(byte_level(*specials))
    assert (t.pad_id, t.bos_id, t.eos_id) == (pad, bos, eos)
    assert t.token_bytes[256:].sum() == 0
    assert t.token_bytes[:256].sum() == 256
    if specials[-1].strip("<[]>").lower() == "mask":
        assert t.special_id("<mask>") == t.vocab_size - 1


def test_own_sentinels_come_before_the_objectives() -> None:
    t = Tokenizer(byte_level("</s>", "<extra_id_0>", "<extra_id_1>"))
    assert t.special_id("<extra_id_1>") == 258
    assert t.special_id("<extra_id_2>") > t.vocab_size
    assert t.decode([258, 256]) == "<extra_id_1>"


def test_neither_beginning_nor_end(tmp_path: pathlib.Path) -> None:
    write(tmp_path, byte_level("<x>"))
    with pytest.raises(ValueError, match=r"neither .* name its eos_token in"):
        tokenizer.load(tmp_path)
    write(tmp_path, byte_level("<x>"), eos_token="<y>")
    with pytest.raises(
        ValueError, match=r"eos_token is '<y>', .* among its 257 tokens"
    ):
        tokenizer.load(tmp_path)
    write(tmp_path, byte_level("<x>"), eos_token="<x>", mask_token="<y>")
    t = tokenizer.load(tmp_path)
    assert t.special_id("<mask>") == t.vocab_size


def test_a_unigram_of_another_keeps_its_specials_out_of_texts() -> None:
    """The library holds specials among the pieces, with the best score of all."""
    letters = [(c, -5.0) for c in "▁ades<>/0x41"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<0x41>", 0.0), *letters]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, 2, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    inner.add_special_tokens(["<pad>", "</s>", "<unk>"])
    t = Tokenizer(inner)
    text = "a</s>d <0x41><ades"
    ids = t.encode(text)
    assert t.decode(ids) == text
    assert min(ids) > 3 and len(ids) == len(text) + 1
    assert t.decode([3]) == "A"


def test_words_with_an_end(tmp_path: pathlib.Path) -> None:
    """A word's last piece ends in "</w>", as in the first GPT and in CLIP."""
    vocab = {"<eos>": 0, "a": 1, "b</w>": 2, "ab</w>": 3, ".</w>": 4}
    model = models.BPE(vocab, [("a", "b</w>")], end_of_word_suffix="</w>")
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder("</w>")
    inner.add_special_tokens(["<eos>"])
    t = Tokenizer(inner)
    ids = t.encode("AB aab .")
    assert ids.tolist() == [3, 1, 3, 4]
    assert t.decode(ids) == "ab aab . "
    assert t.word_starts(ids).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(t.token_bytes, [0, 1, 2, 3, 2])


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[" * 10_000, '{"model": {"type": 1}}']
)
def test_a_broken_file_names_itself(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json is no.*delete it"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no"):
        tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", ["", "{", '["ab"]', "7"])
def test_a_broken_config_names_itself(tmp_path: pathlib.Path, text: str) -> None:
    write(tmp_path, byte_level("<eos>"))
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"tokenizer_config\.json (is not json|holds a)"
    ):
        tokenizer.load(tmp_path)


def test_a_missing_file_names_the_remedy(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json.*prepare_data"):
        tokenizer.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer; accepted: token"):
        tokenizer.load(tmp_path)


def test_saving_leaves_no_names_of_another(tmp_path: pathlib.Path) -> None:
    write(tmp_path, byte_level("<x>"), eos_token="<x>", chat_template="x")
    t = tokenizer.train(TEXTS, 270)
    t.save(tmp_path / "tokenizer.json")
    again = tokenizer.load(tmp_path)
    assert (again.fingerprint, again.chat_templates) == (t.fingerprint, {})
    with pytest.raises(ValueError, match="no chat template"):
        again.apply_chat_template([])


@pytest.mark.parametrize("charsmap", [b"", b"\4\0\0\0", b"\4\0\0\0\0\1\0\0x\0"])
def test_a_broken_map_of_characters(tmp_path: pathlib.Path, charsmap: bytes) -> None:
    """SentencePiece's normalisation; the library panics where an index is beyond it."""
    inner = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0)], 0))
    inner.add_special_tokens(["</s>"])
    described = json.loads(inner.to_str())
    coded = base64.b64encode(charsmap).decode()
    described["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": coded}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"tokenizer\.json is no|can't encode a text"):
        tokenizer.load(tmp_path).encode("aé")
