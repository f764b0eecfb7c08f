"""What lies beside a tokenizer: specials, added tokens, chat templates, all its shapes.

The files are our own, in the shapes that the field ships.
"""

import json
import pathlib
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llmjax.data.tokenizers import tokenizer

MESSAGES = [{"role": "user", "content": "hi"}]


def flags(content: str, *, special: bool = True, **others: Any) -> dict[str, Any]:
    """A token as `added_tokens_decoder` has it."""
    shape = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **shape, "special": special, **others}


def described(*specials: str, ids: list[int] | None = None) -> dict[str, Any]:
    """The json of a byte-level tokenizer, its specials behind its bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = dict(zip(alphabet, ids or range(256), strict=True))
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(specials))
    return json.loads(inner.to_str())


@pytest.fixture
def write(tmp_path: pathlib.Path):
    """(name of a file, its content) -> written beside a tokenizer."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(described("<s>", "</s>")))

    def to(name: str, content: Any) -> pathlib.Path:
        text = content if isinstance(content, str) else json.dumps(content)
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return tmp_path

    return to


def test_tokens_that_only_the_config_adds(write) -> None:
    """As Qwen's and Phi's: the end of a turn stands in tokenizer_config.json alone."""
    decoder = {
        "258": flags("<|im_end|>"),
        "256": flags("<s>"),
        "259": flags("<think>", special=False, normalized=True),
    }
    config = {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>"}
    folder = write("tokenizer_config.json", config)
    (folder / "again").mkdir()
    loaded = tokenizer.load(folder)
    loaded.save(folder / "again/tokenizer.json")
    for t in (loaded, tokenizer.load(folder / "again")):
        assert (t.bos_id, t.eos_id, t.vocab_size) == (256, 258, 260)
        ids = t.encode("a<think>b<|im_end|>", parse_specials=True)
        assert ids[[1, -1]].tolist() == [259, 258] and len(ids) == 4
        assert t.decode(ids) == "a<think>b"
        assert t.fingerprint == loaded.fingerprint


def test_tokens_of_an_older_file(write) -> None:
    write("added_tokens.json", {"[PAD]": 258, "<turn>": 259})
    folder = write("special_tokens_map.json", {"pad_token": "[PAD]"})
    t = tokenizer.load(folder)
    assert (t.pad_id, t.vocab_size) == (258, 260)
    ids = t.encode("<turn>[PAD]", parse_specials=True)
    assert ids.tolist() == [259, 258] and t.decode(ids) == "<turn>"


@pytest.mark.parametrize("number", ["300", "257"])
def test_an_added_token_without_its_id_is_refused(write, number: str) -> None:
    decoder = {number: flags("<x>")}
    folder = write("tokenizer_config.json", {"added_tokens_decoder": decoder})
    with pytest.raises(ValueError, match=rf"'<x>' as {number}, and it would be 258"):
        tokenizer.load(folder)


def test_null_and_no_text_say_nothing(write) -> None:
    names = {"eos_token": "</s>", "bos_token": "<s>", "mask_token": "<m>"}
    write("special_tokens_map.json", names)
    config = {"eos_token": None, "bos_token": "", "pad_token": {"content": ""}}
    t = tokenizer.load(write("tokenizer_config.json", config))
    assert (t.eos_id, t.bos_id, t.pad_id) == (257, 256, 257)


@pytest.mark.parametrize("end", [255, 256, 299, 300])
def test_a_vocabulary_with_a_hole(tmp_path: pathlib.Path, end: int) -> None:
    """Ids 0-254 and 299 are bytes; an end within the hole, beyond it, or in the way."""
    inner = described(ids=[*range(255), 299])
    inner["added_tokens"] = [{"id": end, **flags("</s>")}]
    inner["model"]["vocab"] |= {} if end in (256, 299) else {"</s>": end}
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner))
    t = tokenizer.load(tmp_path)
    text = bytes(range(256)).decode("latin-1")
    ids = t.encode(text + "</s>", parse_specials=True)
    assert ids.max() == t.vocab_size - 1 == max(299, t.eos_id)
    assert t.decode(ids) == text
    assert t.decode([270, *ids, 280]) == text  # ids in the hole are no token's
    assert t.token_bytes[ids].sum() == len(text.encode())
    assert t.token_bytes.sum() == 256


def test_two_tokens_of_one_id_are_refused(tmp_path: pathlib.Path) -> None:
    """The library gives an added token the number of tokens, which another may have."""
    inner = described(ids=[*range(1, 257)])
    inner["added_tokens"] = [{"id": 0, **flags("</s>")}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner))
    with pytest.raises(ValueError, match=r"tokenizer\.json gives the id 256 to"):
        tokenizer.load(tmp_path)


def test_an_absurd_id_is_refused(tmp_path: pathlib.Path) -> None:
    inner = described("</s>")
    inner["model"]["vocab"] |= {"x": 2**32 - 1}
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner))
    with pytest.raises(ValueError, match="an id of 4294967295; accepted: below"):
        tokenizer.load(tmp_path)


# --- chat templates ------------------------------------------------------------------


def texts(folder: pathlib.Path) -> dict[str, str]:
    t = tokenizer.load(folder)
    return {
        "plain": t.apply_chat_template(MESSAGES),
        "tools": t.apply_chat_template(MESSAGES, tools=[]),
    }


NAMED = [
    {"name": "default", "template": "d{{ bos_token }}"},
    {"name": "tool_use", "template": "t{{ tools | length }}"},
]
BY_NAME = {entry["name"]: entry["template"] for entry in NAMED}


@pytest.mark.parametrize("value", [NAMED, BY_NAME], ids=["list", "object"])
def test_templates_in_the_config(write, value: Any) -> None:
    config = {"chat_template": value, "bos_token": "<s>"}
    folder = write("tokenizer_config.json", config)
    assert texts(folder) == {"plain": "d<s>", "tools": "t0"}
    (folder / "again").mkdir()
    tokenizer.load(folder).save(folder / "again/tokenizer.json")
    assert texts(folder / "again") == {"plain": "d<s>", "tools": "t0"}


def test_templates_in_files_of_their_own(write) -> None:
    write("tokenizer_config.json", {"chat_template": NAMED})
    folder = write("chat_template.jinja", "own")
    assert texts(folder) == {"plain": "own", "tools": "own"}
    write("additional_chat_templates/tool_use.jinja", "t")
    write("additional_chat_templates/rag.jinja", "r{{ documents | length }}")
    assert texts(folder) == {"plain": "own", "tools": "t"}
    t = tokenizer.load(folder)
    rag = t.apply_chat_template(MESSAGES, template="rag", documents=[{}])
    assert rag == "r1"
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template 'default'; .* 'rag'"):
        texts(folder)


BROKEN = {
    "number": ("chat_template", 7),
    "list of texts": ("chat_template", ["a", "b"]),
    "name that is a list": ("chat_template", [{"name": ["x"], "template": ""}]),
    "no template": ("chat_template", [{"name": "default"}]),
    "empty list": ("chat_template", []),
    "object of numbers": ("chat_template", {"default": 3}),
    "token that is a number": ("eos_token", 7),
    "token without content": ("eos_token", {"lstrip": True}),
    "flag that is a text": ("add_bos_token", "false"),
    "side that is none": ("truncation_side", ["middle"]),
    "tokens in a list": ("added_tokens_decoder", ["<x>"]),
    "tokens by name": ("added_tokens_decoder", {"<x>": 258}),
    "token of no text": ("added_tokens_decoder", {"258": {"content": 7}}),
    "flag that is a number": ("added_tokens_decoder", {"258": flags("x", lstrip=3)}),
    "id that is huge": ("added_tokens_decoder", {"9" * 5000: flags("x")}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_key_of_another_shape_is_named_with_its_file(write, name: str) -> None:
    key, value = BROKEN[name]
    folder = write("tokenizer_config.json", {key: value})
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json has {key}"):
        tokenizer.load(folder)


def test_a_file_that_is_no_text_names_itself(write) -> None:
    folder = write("special_tokens_map.json", {})
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is no template in"):
        tokenizer.load(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/x.jinja").mkdir()
    with pytest.raises(ValueError, match=r"x\.jinja is no template in"):
        tokenizer.load(folder)
    (folder / "tokenizer_config.json").mkdir()
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not json"):
        tokenizer.load(folder)
