"""Tokenizers of folders and of GGUF files, and chat templates in their sandbox."""

import json
import pathlib

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from llmjax import hub
from llmjax.data.tokenizers import gguf_vocabulary
from llmjax.data.tokenizers.conventions import Conventions
from llmjax.data.tokenizers.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "Ünïcode 1234 don't\n\n  stop", "the end"]
SPECIALS = ["<s>", "</s>", "<pad>"]
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


@pytest.fixture
def folder(tmp_path):
    inner = train()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
        "pad_token": None,
        "chat_template": TEMPLATE,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_ids_and_text(folder):
    tokenizer = hub.tokenizer(folder)
    ids = tokenizer.encode(TEXTS[0], special_tokens=True)
    assert ids.dtype == np.int32 and len(ids) > 4  # neither cut nor padded
    assert ids[0] == tokenizer.bos_id == 0
    assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 2)
    assert tokenizer.special_id("<pad>") == 2
    np.testing.assert_array_equal(tokenizer.encode(TEXTS[0]), ids[1:])
    assert tokenizer.decode(ids) == TEXTS[0]
    assert tokenizer.decode(ids, special_tokens=True) == "<s>" + TEXTS[0]
    assert tokenizer.vocab_size == train().get_vocab_size()


def test_ids_that_are_no_token_s(folder):
    tokenizer = hub.tokenizer(folder)
    padded = [tokenizer.vocab_size + 340, *tokenizer.encode("the"), 10**6]
    assert tokenizer.decode(padded) == "the"
    with pytest.raises(ValueError, match="the id -1 is negative"):
        tokenizer.decode([3, -1])


def test_chat(folder):
    tokenizer = hub.tokenizer(folder)
    messages = [{"role": "user", "content": "Größe?"}]
    text = tokenizer.apply_chat_template(messages)
    assert text == '<s>user: "Größe?"</s>\nmodel:'
    assert tokenizer.encode(text, parse_specials=True)[0] == tokenizer.bos_id
    rest = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    assert rest == '<s>user: "Größe?"</s>\n'
    with pytest.raises(ValueError, match="template 'default' fails: user first"):
        tokenizer.apply_chat_template([{"role": "model", "content": ""}])


def test_a_template_of_its_own_or_by_name(folder, edit):
    config = folder / "tokenizer_config.json"
    named = [
        {"name": "tools", "template": "no"},
        {"name": "default", "template": "yes"},
    ]
    edit(config, chat_template=named)
    assert hub.tokenizer(folder).apply_chat_template([]) == "yes"
    (folder / "chat_template.jinja").write_text("its own")
    assert hub.tokenizer(folder).apply_chat_template([]) == "its own"
    (folder / "chat_template.jinja").unlink()
    edit(config, chat_template=None)
    with pytest.raises(ValueError, match="has no chat template"):
        hub.tokenizer(folder).apply_chat_template([])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_stays_in_its_sandbox(template):
    tokenizer = Tokenizer(train(), Conventions({}, {"default": template}))
    with pytest.raises(ValueError, match="the chat template 'default' fails"):
        tokenizer.apply_chat_template([])


@pytest.mark.parametrize("text", ["", "{}", "[" * 10_000, '{"model": {"type": "BPE"}}'])
def test_a_broken_file_names_itself(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer's json"):
        hub.tokenizer(folder)


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer.*save_pretrained"):
        hub.tokenizer(tmp_path)


# --- from GGUF -----------------------------------------------------------------------


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
        "tokenizer.ggml.token_type": [3 if t in SPECIALS else 1 for t in tokens],
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
        assert rebuilt.num_specials == 0
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


def test_sentence_piece_from_gguf(tmp_path):
    """The best-scored join goes first; bytes for what no piece spells."""
    pieces = {"<unk>": 0.0, "<s>": 0.0, "</s>": 0.0}
    pieces |= {f"<0x{b:02X}>": 0.0 for b in range(256)}
    letters = ["▁", "a", "b", "c"]
    pieces |= {"▁a": -1.0, "bc": -2.0, "ab": -3.0, "abc": -4.0, "▁abc": -5.0}
    pieces |= dict.fromkeys(letters, -9.0)
    tokens = list(pieces)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(list(pieces.values()), np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 9),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer = from_gguf(metadata, tmp_path)

    def spelled(text):
        return [tokens[i] for i in tokenizer.encode(text, special_tokens=True)]

    # "▁a" + "bc" joined first, so "ab" never is; "▁abc" has no such two parts' join
    assert spelled("abc") == ["<s>", "▁abc"]
    assert spelled("cab abcc") == ["<s>", "▁", "c", "ab", "▁abc", "c"]
    assert spelled("é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    for text in ("abc", "cab abcc", "é a"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "of the kind 'bert'; accepted"),
        ({"tokenizer.ggml.pre": "new"}, "tokenizer.ggml.pre is 'new'; accepted"),
        ({"tokenizer.ggml.tokens": 7}, "accepted"),
        ({"tokenizer.ggml.merges": ["x y"]}, "broken tokenizer"),
        ({"tokenizer.ggml.merges": 7}, "broken tokenizer"),
        ({"tokenizer.ggml.pre": ["x"]}, "broken tokenizer"),
    ],
)
def test_a_gguf_tokenizer_that_is_not_understood(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        from_gguf(describe(train(), "gpt-2") | change, tmp_path)
