"""Tokenizers in GGUF metadata, read as llama.cpp reads them."""

import json
import pathlib
import time
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llmjax.data.tokenizers import gguf_vocabulary
from llmjax.data.tokenizers.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "Ünïcode 1234 don't\n\n  stop", "the end"]
SPECIALS = ["<s>", "</s>", "<pad>"]
GGML = "tokenizer.ggml."
TEMPLATE = """\
{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}
{% for m in messages %}
{{ bos_token }}{{ m['role'] }}: {{ m['content'] | tojson }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
model:{% endif %}"""


def train(*steps, whole: bool = True) -> tokenizers.Tokenizer:
    """A byte-level BPE on TEXTS, with `steps` before its split into bytes."""
    inner = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=whole)
    inner.pre_tokenizer = pre_tokenizers.Sequence([*steps, level])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    return inner


def from_gguf(metadata: dict, path: pathlib.Path) -> Tokenizer:
    return Tokenizer(*gguf_vocabulary.convert(path, metadata))


def describe(inner: tokenizers.Tokenizer, pre: str) -> dict:
    """The metadata that llama.cpp writes for a byte-level BPE."""
    vocab = inner.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    model = json.loads(inner.to_str())["model"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(
            [3 if t in SPECIALS else 1 for t in tokens]
        ),
        "tokenizer.ggml.merges": [" ".join(m) for m in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": ((), True),
    "smollm": ((pre_tokenizers.Digits(True),), True),
    "llama-bpe": (
        (pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"),),
        False,
    ),
}


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_from_gguf(tmp_path, pre):
    steps, whole = SPLITS[pre]
    inner = train(*steps, whole=whole)
    rebuilt = from_gguf(describe(inner, pre), tmp_path)
    for text in [*TEXTS, "12345 they've <s>x</s>\r\n\t done"]:
        ids = rebuilt.encode(text, parse_specials=True)
        np.testing.assert_array_equal(ids, inner.encode(text).ids)
        assert rebuilt.decode(ids, special_tokens=True) == text
        assert rebuilt.num_specials == (pre == "llama-bpe")
    assert (rebuilt.bos_id, rebuilt.eos_id, rebuilt.pad_id) == (0, 1, 2)
    assert "user" in rebuilt.apply_chat_template([{"role": "user", "content": ""}])


@pytest.mark.parametrize("adds", [{"bos"}, {"eos"}, {"bos", "eos"}, set()])
def test_the_ends_that_gguf_asks_for(tmp_path, adds):
    metadata = describe(train(), "gpt-2")
    metadata |= {f"tokenizer.ggml.add_{name}_token": True for name in adds}
    rebuilt = from_gguf(metadata, tmp_path)
    text = "<s>" * ("bos" in adds) + "the" + "</s>" * ("eos" in adds)
    ids = rebuilt.encode("the", special_tokens=True)
    assert rebuilt.decode(ids, special_tokens=True) == text
    assert rebuilt.num_specials == len(adds)


def sentence_pieces() -> dict[str, Any]:
    """The metadata of a SentencePiece vocabulary, with bytes for rare letters."""
    pieces = {"<unk>": 0.0, "<s>": 0.0, "</s>": 0.0}
    pieces |= {f"<0x{b:02X}>": 0.0 for b in range(256)}
    letters = ["▁", "a", "b", "c"]
    pieces |= {"▁a": -1.0, "bc": -2.0, "ab": -3.0, "abc": -4.0, "▁abc": -5.0}
    pieces |= dict.fromkeys(letters, -9.0)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(pieces),
        "tokenizer.ggml.scores": np.array(list(pieces.values()), np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 9),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def test_sentence_piece_from_gguf(tmp_path):
    """The best-scored join goes first; bytes for what no piece spells."""
    metadata = sentence_pieces()
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = from_gguf(metadata, tmp_path)

    def spelled(text):
        return [tokens[i] for i in tokenizer.encode(text, special_tokens=True)]

    # "▁a" + "bc" joined first, so "ab" never is; "▁abc" has no such two parts' join
    assert spelled("abc") == ["<s>", "▁abc"]
    assert spelled("cab abcc") == ["<s>", "▁", "c", "ab", "▁abc", "c"]
    assert spelled("é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    for text in ("abc", "cab abcc", "é a"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


WORDS = "it's 12345! Ünïcode  x=1\n\n\tend"
CUT = {
    "default": [
        *("it", "'", "s", " ", "123", "45", "!", " Ünïcode", " ", " x", "=", "1"),
        *("\n\n", "\t", "end"),
    ],
    "gpt-2": [
        *("it", "'s", " 12345", "!", " Ünïcode", " ", " x", "=", "1"),
        *("\n\n", "\t", "end"),
    ],
    "smollm": [
        *("it", "'s", " ", *"12345", "!", " Ünïcode", " ", " x", "=", "1"),
        *("\n\n", "\t", "end"),
    ],
    "llama-bpe": [
        *("it", "'s", " ", "123", "45", "!", " Ünïcode", " ", " x", "=", "1"),
        *("\n\n", "\tend"),
    ],
    "qwen2": [
        *("it", "'s", " ", *"12345", "!", " Ünïcode", " ", " x", "=", "1"),
        *("\n\n", "\tend"),
    ],
    "tekken": [
        *("it", "'s", " ", *"12345", "!", " Ünïcode", " ", " x", "=", "1"),
        *("\n\n", "\tend"),
    ],
}


@pytest.mark.parametrize("pre", CUT)
def test_the_words_are_llama_cpp_s(tmp_path, pre):
    """By hand, from the regular expressions of its llama-vocab.cpp."""
    inner, _ = gguf_vocabulary.convert(tmp_path, describe(train(), pre))
    cut = inner.pre_tokenizer.pre_tokenize_str(WORDS)
    assert [WORDS[start:stop] for _, (start, stop) in cut] == CUT[pre]


@pytest.mark.parametrize("pre", ["", None])
def test_without_a_pre_tokenizer_llama_cpp_s_default(tmp_path, pre):
    metadata = describe(train(), "gpt-2") | {f"{GGML}pre": pre}
    if pre is None:
        del metadata[f"{GGML}pre"]
    inner, _ = gguf_vocabulary.convert(tmp_path, metadata)
    cut = inner.pre_tokenizer.pre_tokenize_str(WORDS)
    assert [WORDS[start:stop] for _, (start, stop) in cut] == CUT["default"]


@pytest.mark.parametrize(("pre", "whole"), [("llama-bpe", True), ("gpt-2", False)])
def test_a_word_that_no_merge_makes(tmp_path, pre, whole):
    """Llama 3's vocabulary has words that its merges don't reach."""
    metadata = describe(train(), pre)
    metadata[f"{GGML}tokens"] += ["Ġqzq"]
    metadata[f"{GGML}token_type"] = np.append(metadata[f"{GGML}token_type"], 1)
    rebuilt = from_gguf(metadata, tmp_path)
    ids = rebuilt.encode(" qzq").tolist()
    assert (ids == [rebuilt.vocab_size - 1]) == whole
    assert rebuilt.decode(ids) == " qzq"


@pytest.mark.parametrize(
    ("pre", "said", "begins"),
    [
        ("llama-bpe", {}, True),
        ("llama-bpe", {"add_bos_token": False}, False),
        ("tekken", {}, True),
        ("gpt-2", {}, False),
        ("gpt-2", {"add_bos_token": True}, True),
        ("llama-bpe", {"bos_token_id": 2**32 - 1}, False),  # none to begin with
    ],
)
def test_what_begins_a_text(tmp_path, pre, said, begins):
    metadata = describe(train(), pre) | {GGML + key: v for key, v in said.items()}
    rebuilt = from_gguf(metadata, tmp_path)
    ids = rebuilt.encode("the", special_tokens=True)
    assert (ids[0] == 0) == begins and rebuilt.num_specials == begins


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 10**6])
def test_an_id_that_no_token_has_is_unsaid(tmp_path, number):
    metadata = describe(train(), "gpt-2")
    metadata |= {f"{GGML}{key}_token_id": number for key in ("eos", "padding")}
    rebuilt = from_gguf(metadata, tmp_path)
    # not the last token: the usual names
    assert (rebuilt.bos_id, rebuilt.eos_id, rebuilt.pad_id) == (0, 1, 2)
    metadata = sentence_pieces() | {f"{GGML}unknown_token_id": number}
    rebuilt = from_gguf(metadata, tmp_path)
    assert rebuilt.specials["unk"] == "<unk>"
    ids = rebuilt.encode("é a")
    assert rebuilt.decode(ids) == "é a"


def test_sentence_piece_s_specials_are_its_first(tmp_path):
    metadata = sentence_pieces()
    for name in ("bos", "eos", "unknown"):
        metadata.pop(f"{GGML}{name}_token_id", None)
    rebuilt = from_gguf(metadata, tmp_path)
    assert (rebuilt.specials["unk"], rebuilt.bos_id, rebuilt.eos_id) == ("<unk>", 1, 2)


def test_chat_templates_by_name(tmp_path):
    metadata = describe(train(), "gpt-2")
    metadata["tokenizer.chat_templates"] = ["tool_use"]
    metadata["tokenizer.chat_template.tool_use"] = "{{ tools | length }}"
    rebuilt = from_gguf(metadata, tmp_path)
    messages = [{"role": "user", "content": "x"}]
    assert rebuilt.apply_chat_template(messages, tools=[]) == "0"
    assert "user" in rebuilt.apply_chat_template(messages)


def test_a_token_of_200_thousand_letters(tmp_path):
    """No cut of it is a merge; a piece is refused, a user's is kept whole."""
    metadata = sentence_pieces()
    tokens, kinds = metadata[f"{GGML}tokens"], metadata[f"{GGML}token_type"]
    metadata[f"{GGML}tokens"] = [*tokens, "a" * 200_000]
    scores = np.append(metadata[f"{GGML}scores"], np.float32(-1))
    metadata |= {f"{GGML}scores": scores, f"{GGML}token_type": np.append(kinds, 1)}
    start = time.monotonic()
    with pytest.raises(ValueError, match="a token of 200000 characters, 'aaaa"):
        from_gguf(metadata, tmp_path)
    metadata |= {f"{GGML}token_type": np.append(kinds, 4)}
    rebuilt = from_gguf(metadata, tmp_path)
    long = describe(train(), "gpt-2")
    long[f"{GGML}tokens"].append("a" * 200_000)
    long[f"{GGML}token_type"] = np.append(long[f"{GGML}token_type"], 1)
    rebuilt = from_gguf(long, tmp_path)
    assert rebuilt.decode(rebuilt.encode("aaa")) == "aaa"
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "of the kind 'bert'; accepted"),
        ({"pre": "new"}, "tokenizer.ggml.pre is 'new'; accepted"),
        ({"pre": ["x"]}, "tokenizer.ggml.pre is .*; accepted"),
        ({"tokens": 7}, "accepted"),
        ({"tokens": [["a"], ["b"]]}, "accepted"),
        ({"tokens": ["a", "b", "a"]}, "has the token 'a' twice, 2 the last"),
        ({"merges": ["x y"]}, "broken tokenizer"),
        ({"merges": ["xy"]}, "merges is 'xy'; accepted: pairs"),
        ({"merges": 7}, "merges is '7'; accepted: a list"),
        ({"merges": None}, "merges is 'None'; accepted: a list"),
        ({"token_type": np.ones(3)}, "token_type is .*; accepted: a number for each"),
        ({"token_type": [["x"]]}, "token_type is .*; accepted: a number for each"),
        ({"eos_token_id": "x"}, "eos_token_id is 'x'; accepted: the id"),
        ({"eos_token_id": True}, "eos_token_id is 'True'; accepted: the id"),
        ({"add_eos_token": 1}, "add_eos_token is '1'; accepted: true, false"),
        ({"add_bos_token": "no"}, "add_bos_token is 'no'; accepted: true, false"),
    ],
)
def test_a_gguf_tokenizer_that_is_not_understood(tmp_path, change, message):
    changes = {GGML + key: value for key, value in change.items()}
    with pytest.raises(ValueError, match=message):
        from_gguf(describe(train(), "gpt-2") | changes, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "scores is 'None'; accepted: a number for each of 268"),
        ({"scores": ["x"] * 268}, "scores is .*; accepted: a number for each"),
        ({"add_space_prefix": 0}, "add_space_prefix is '0'; accepted: true, false"),
    ],
)
def test_sentence_pieces_that_are_not_understood(tmp_path, change, message):
    changes = {GGML + key: value for key, value in change.items()}
    with pytest.raises(ValueError, match=message):
        from_gguf(sentence_pieces() | changes, tmp_path)
