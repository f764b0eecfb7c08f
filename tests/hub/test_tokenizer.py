"""Tokenizers of folders of the hub, and their chat templates."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from llmjax import hub
from llmjax.train.checkpoints import weights

TEXTS = ["the cat sat on the mat", "Ünïcode 1234 don't\n\n  stop", "the end"]
SPECIALS = ["<s>", "</s>", "<pad>"]
TEMPLATE = """\
{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}
{% for m in messages %}
{{ bos_token }}{{ m['role'] }}: {{ m['content'] | tojson }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
model:{% endif %}"""


def train() -> tokenizers.Tokenizer:
    """A byte-level BPE on TEXTS."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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


@pytest.mark.parametrize("text", ["", "{}", "[" * 10_000, '{"model": {"type": "BPE"}}'])
def test_a_broken_file_names_itself(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer's json"):
        hub.tokenizer(folder)


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer.*save_pretrained"):
        hub.tokenizer(tmp_path)


@pytest.mark.parametrize("family", ["xlm-roberta", "marian", "llama", "t5"])
def test_pieces_that_a_family_numbers_anew_are_not_read_for_its_ids(family, tmp_path):
    """XLM-R's "the" has the id of the piece behind it: 1 more than SentencePiece's."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 9),
        model_writer=written,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    (tmp_path / "sentencepiece.bpe.model").write_bytes(written.getvalue())
    if family in ("llama", "t5"):
        assert len(hub.tokenizer(tmp_path).encode("the cat"))
        return
    says = f"sentencepiece.bpe.model alone does not say the ids of the family {family}"
    for read in (hub.tokenizer, weights._place):
        with pytest.raises(ValueError, match=says):
            read(tmp_path)
    train().save(str(tmp_path / "tokenizer.json"))
    assert hub.tokenizer(tmp_path).vocab_size > 256
    assert weights._place(tmp_path) == str(tmp_path)
