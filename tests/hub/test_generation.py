"""Continuations by models of the hub: their settings, and the main that reads them."""

import json
from typing import Any

import jax.numpy as jnp
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from llmjax import hub
from llmjax.config import ModelConfig
from llmjax.hub import families
from llmjax.hub.generation import Generation
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from tests.experiments.forked import Mains

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}"
    "{% endfor %}"
)
GREEDY = Sampling(temperature=0.0)
TINY = ModelConfig(  # more rows than the tokenizer has tokens
    vocab_size=640, d_model=64, d_ff=96, num_layers=1, num_heads=4, tie_embeddings=False
)


def test_settings_in_the_shapes_that_ship(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert hub.generation(tmp_path) == Generation(stop_tokens=(7,))
    file = tmp_path / "generation_config.json"

    def read(**values: Any) -> Generation:
        file.write_text(json.dumps(values))
        return hub.generation(tmp_path)

    greedy = {"temperature": 0.0}
    # GPT-2's
    assert read(bos_token_id=50256, eos_token_id=50256) == Generation(
        greedy, stop_tokens=(50256,)
    )
    # Llama 3's
    llama = read(
        eos_token_id=[128001, 128008],
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        max_length=4096,
    )
    assert llama == Generation(
        {"temperature": 0.6, "top_p": 0.9, "top_k": 50}, stop_tokens=(128001, 128008)
    )
    # Qwen's, with a penalty that is said
    qwen = read(
        do_sample=True,
        repetition_penalty=1.05,
        top_k=0,
        max_new_tokens=9,
        num_beams=1,
        pad_token_id=None,
    )
    assert qwen == Generation(
        {"temperature": 1.0, "top_p": 1.0}, 9, left_out={"repetition_penalty": 1.05}
    )
    # BART's
    bart = read(decoder_start_token_id=2, forced_bos_token_id=0, num_beams=4)
    assert bart == Generation(greedy, start_tokens=(2, 0), left_out={"num_beams": 4})
    assert read(eos_token_id=-1) == Generation(greedy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_k", 1.5),
        ("max_new_tokens", -3),
        ("eos_token_id", "2"),
        ("eos_token_id", [[2]]),
        ("decoder_start_token_id", True),
    ],
)
def test_a_setting_that_can_t_be_is_named(tmp_path, key, value):
    values = {"do_sample": True, key: value}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"generation_config.json has {key} .*accept"):
        hub.generation(tmp_path)


# --- the main ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Bytes, then <s> and </s> at 256 and 257; a text begins with <s>."""
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(ALPHABET)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    return inner


@pytest.fixture(scope="module")
def tiny_params(random_params):
    return random_params(LanguageModel(TINY), {"tokens": jnp.zeros((1, 4), jnp.int32)})


@pytest.fixture
def chat_folder(tmp_path, tiny_params):
    folder = tmp_path / "hub"
    hub.save(LanguageModel(TINY), tiny_params, folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": TEMPLATE}],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    settings = {"eos_token_id": [257, 300], "max_new_tokens": 5, "typical_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def run(mains, source, *flags) -> tuple[dict[str, Any], Any]:
    folder = mains.folder / "result"
    done = mains.run("generate", f"--run={source}", f"--workdir={folder}", *flags)
    assert done.code == 0, done.err
    return json.loads((folder / "result.json").read_text()), done


def expected(source, ids, tokens: int, stops=(257, 300)) -> str:
    model, params = hub.load(source)
    (new,) = generate(
        model,
        params,
        [ids],
        max_new_tokens=tokens,
        sampling=GREEDY,
        stop_tokens=stops,
        pad_id=257,
    )
    return hub.tokenizer(source).decode(new)


def encoded(text: str) -> list[int]:
    return byte_tokenizer().encode(text, add_special_tokens=False).ids


def test_a_folder_of_the_hub_as_its_settings_say(mains, chat_folder, tmp_path):
    """Also rows of the model beyond the tokenizer's ids, which decode to nothing."""
    (tmp_path / "prompt.txt").write_text("two\nlines\n")
    result, done = run(
        mains, chat_folder, "--prompt=ab", f"--prompt_file={tmp_path}/prompt.txt"
    )
    assert result["sampling"]["temperature"] == 0 and result["max_new_tokens"] == 5
    assert result["left_out"] == {"typical_p": 0.9}
    assert "asks for typical_p=0.9, which is left out" in done.err
    first, second = result["generations"]
    assert first["text"] == expected(chat_folder, [256, *encoded("ab")], 5)
    assert second["prompt"] == "two\nlines"
    ids = [256, *encoded("two\nlines")]
    assert second["text"] == expected(chat_folder, ids, 5)
    assert f"ab{first['text']}\n---" in done.out

    drawn, _ = run(mains, chat_folder, "--top_k=3", "--max_new_tokens=2")
    assert drawn["sampling"] == {
        "temperature": 1.0,
        "top_k": 3,
        "top_p": None,
        "min_p": None,
    }
    assert drawn["generations"][0]["tokens"] <= 2


def test_a_conversation(mains, chat_folder):
    result, done = run(mains, chat_folder, "--chat", "--prompt=hi")
    ids = encoded("<s>user: hi</s>")
    assert ids[0] == 256 and ids[-1] == 257
    (item,) = result["generations"]
    assert item["text"] == expected(chat_folder, ids, 5)
    assert f"hi{item['text']}\n---" not in done.out


def test_a_gguf_file(mains, tmp_path, tiny_params, write_gguf):
    tensors = hub.to_hub(families.family("llama"), TINY, tiny_params)
    names = [*ALPHABET, "<s>", "</s>", "<|im_end|>", "qz"]
    kinds = [1] * 256 + [3] * 3 + [1]
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["q z"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }
    path = write_gguf(tmp_path / "m.gguf", TINY, tensors, also=keys)
    assert hub.generation(path) == Generation(stop_tokens=(257, 258))
    result, _ = run(mains, path, "--prompt=ab", "--temperature=0", "--max_new_tokens=4")
    ids = [256, *encoded("ab")]
    assert result["generations"][0]["text"] == expected(path, ids, 4, (257, 258))


def test_what_generates_nothing_is_refused(mains, chat_folder, tmp_path, random_params):
    encoder = Encoder(TINY)  # LlamaModel, without a head
    params = random_params(encoder, {"tokens": jnp.zeros((1, 4), jnp.int32)})
    hub.save(encoder, params, tmp_path / "encoder")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    mistakes = {
        (
            f"--run={tmp_path}/encoder",
        ): "is of the kind Encoder (decoder), which predicts no",
        ("--run=package:none",): "package:none is not on the list; accepted",
        (f"--run={chat_folder}", "--step=3"): "--step=3 is a run's",
        (f"--run={chat_folder}", "--prompt_file=none"): "--prompt_file=none is no file",
        (f"--run={chat_folder}", f"--prompt_file={tmp_path}/latin"): "no text in UTF-8",
        (f"--run={tmp_path}/latin",): "is no model; give a folder",
    }
    for flags, message in mistakes.items():
        done = mains.run("generate", *flags)
        (line,) = done.err.strip().splitlines()
        assert done.code == 2 and message in line, line
