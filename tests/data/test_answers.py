"""The answers of a conversation are found in what any template makes of it."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llmjax.data.tokenizers.chats import answers, messages
from llmjax.data.tokenizers.conventions import Conventions
from llmjax.data.tokenizers.tokenizer import Tokenizer
from tests.parity import chats

TOKENS = {
    "gemma": "<start_of_turn> <end_of_turn>",
    "glm": "[gMASK] <sop> <|user|> <|system|> <|assistant|>",
    "gpt_oss": "<|start|> <|message|> <|channel|> <|end|> <|return|> <|call|>",
    "kimi": "<|im_system|> <|im_user|> <|im_assistant|> <|im_middle|> <|im_end|>",
    "llama3_tools": "<|start_header_id|> <|end_header_id|> <|eot_id|>",
    "phi4": "<|system|> <|user|> <|assistant|> <|end|>",
    "qwen": "<|im_start|> <|im_end|> <think> </think>",
    "r1": "<|User|> <|Assistant|>",
    "smollm3": "<|im_start|> <|im_end|>",
}


def of(template: str, *more: str) -> Tokenizer:
    """Bytes, a template of the field and its special tokens."""
    inner = chats.byte_tokenizer(
        "<s>", "</s>", *TOKENS.get(template, "").split(), *more
    )
    file = chats.TEMPLATES / f"{template}.jinja"
    text = file.read_text() if file.exists() else template
    return Tokenizer(inner, Conventions(chats.SPECIALS, {"default": text}))


def written(tokenizer: Tokenizer, marked: answers.Marked) -> list[str]:
    """The runs of marked tokens, as text with its special tokens."""
    ids, is_answer = marked
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_answer, [0]])))
    return [
        tokenizer.decode(ids[a:b], special_tokens=True) for a, b in edges.reshape(-1, 2)
    ]


USER, NEXT = {"role": "user", "content": "Größe?"}, {"role": "user", "content": "Und?"}
PLAIN = {"role": "assistant", "content": " 2 m "}
THOUGHT = {"role": "assistant", "reasoning": "hm", "content": "3 m"}
# what is learned of two answers, the first plain and the second with its reasoning
EXPECTED = {
    "gemma": [["2 m<end_of_turn>\n", "3 m<end_of_turn>\n"]],
    "glm": [["\n<think></think>\n2 m", "\n<think>hm</think>\n3 m</s>"]],
    "gpt_oss": [
        ["<|channel|>final<|message|> 2 m <|return|>"],
        [
            "<|channel|>analysis<|message|>hm<|end|>"
            "<|start|>assistant<|channel|>final<|message|>3 m<|return|>"
        ],
    ],
    "kimi": [[" 2 m <|im_end|>", "3 m<|im_end|>"]],
    "llama2": [[" 2 m</s>", " 3 m</s>"]],
    "llama3_tools": [["2 m<|eot_id|>", "3 m<|eot_id|>"]],
    "phi4": [[" 2 m <|end|>", "3 m<|end|></s>"]],
    "qwen": [
        ["<think>\n\n</think>\n\n 2 m <|im_end|>\n"],
        ["<think>\nhm\n</think>\n\n3 m<|im_end|>\n"],
    ],
    "smollm3": [[" 2 m <|im_end|>\n", "3 m<|im_end|>\n"]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_two_turns(name):
    tokenizer = of(name)
    talk = [USER, PLAIN, NEXT, THOUGHT]
    sequences = answers.split(tokenizer, talk)
    assert [written(tokenizer, s) for s in sequences] == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(
    "talk",
    [
        [USER, PLAIN],
        [chats.SYSTEM, USER, PLAIN, NEXT, THOUGHT, USER, PLAIN],
        [USER, PLAIN, NEXT],
    ],
    ids=["one", "three", "unanswered"],
)
def test_an_answer_follows_the_tokens_that_generation_is_given(name, talk):
    tokenizer = of(name)
    places = [k for k, m in enumerate(talk) if m["role"] == "assistant"]
    sequences = answers.split(tokenizer, talk)
    begun = []
    for ids, is_answer in sequences:
        starts = np.flatnonzero(np.diff(np.concatenate([[0], is_answer])) == 1)
        begun += [ids[:start].tolist() for start in starts]
    prompts = [tokenizer.apply_chat_template(talk[:k]) for k in places]
    expected = [tokenizer.encode(p, parse_specials=True).tolist() for p in prompts]
    assert sorted(begun) == sorted(expected)  # each once


@pytest.mark.parametrize("name", ["qwen", "gpt_oss", "glm", "kimi"])
def test_calls_of_tools_are_answers_and_what_they_return_is_none(name):
    tokenizer = of(name)
    talk = [USER, chats.CALL, chats.ANSWER, PLAIN]
    texts = [
        text
        for marked in answers.split(tokenizer, talk, tools=chats.TOOLS)
        for text in written(tokenizer, marked)
    ]
    called, said = texts
    assert "wetter" in called or name == "gpt_oss"
    assert "東京" in called and "25 °C" not in called + said and "2 m" in said


def test_roles_may_be_others():
    tokenizer = of("kimi")
    talk = [USER, PLAIN, NEXT]
    (marked,) = answers.split(tokenizer, talk, roles=("user", "assistant"))
    user, rest = written(tokenizer, marked)
    assert user.endswith("<|im_user|>user<|im_middle|>Größe?<|im_end|>")
    # the prompt of an answer is the assistant's alone: a user's begins with the turn
    assert rest == " 2 m <|im_end|><|im_user|>user<|im_middle|>Und?<|im_end|>"


def test_one_sequence_or_an_error_that_says_what_is_rewritten():
    talk = [USER, PLAIN, NEXT, THOUGHT]
    with pytest.raises(ValueError, match=r"message 1: .* once more follows; `split`"):
        answers.mark(of("qwen"), talk)
    ids, is_answer = answers.mark(of("qwen"), talk, last=True)
    assert written(of("qwen"), answers.Marked(ids, is_answer)) == EXPECTED["qwen"][1]
    marked = answers.mark(of("llama2"), talk)
    assert written(of("llama2"), marked) == EXPECTED["llama2"][0]


def test_a_token_across_the_border_is_cut_there():
    """As in a model that goes on from the prompt, which ends with a token."""
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant:{% endif %}"
    tokenizer = of(template, ":x", "\n")
    talk = [USER, {"role": "assistant", "content": "xy"}]
    prompt = tokenizer.encode("user:Größe?\nassistant:", parse_specials=True)
    ids, is_answer = answers.mark(tokenizer, talk)
    assert ids[~is_answer].tolist() == prompt.tolist()
    assert tokenizer.decode(ids[is_answer], special_tokens=True) == "xy\n"


def test_a_space_that_is_put_before_a_text_moves_no_border():
    tokenizer = metaspace("llama2")
    ids, is_answer = answers.mark(tokenizer, [USER, PLAIN])
    assert tokenizer.decode(ids[is_answer], special_tokens=True) == "2 m</s>"
    assert (
        ids.tolist()
        == tokenizer.encode(
            "<s>[INST] Größe? [/INST] 2 m</s>", parse_specials=True
        ).tolist()
    )


def metaspace(template: str) -> Tokenizer:
    """Characters, a space before each text, and a template."""
    letters = ["<s>", "</s>", "<unk>", "▁", *"INST[]/Größe?2m"]
    inner = tokenizers.Tokenizer(
        models.Unigram([(letter, -1.0) for letter in dict.fromkeys(letters)], 2)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["<s>", "</s>"])
    text = (chats.TEMPLATES / f"{template}.jinja").read_text()
    return Tokenizer(inner, Conventions(chats.SPECIALS, {"default": text}))


@pytest.mark.parametrize(
    ("template", "talk", "message"),
    [
        ("gemma", [USER], "no message is of the roles .*assistant.*has user"),
        ("gemma", [USER, USER, PLAIN], "turns must alternate.*before message 2"),
        ("gemma", [USER, PLAIN, PLAIN], "turns must alternate.*up to message 2"),
        ("qwen", [PLAIN], "fails: .*before message 0"),
        ("qwen", [USER, PLAIN | {"content": " "}], "message 1, .* is empty"),
        ("qwen", [USER, {"content": "a"}], "message 1 has no role"),
        ("qwen", [], "a list without a message"),
        ("r1", [USER, PLAIN], "message 1, .*asks for it and then writes it as"),
    ],
)
def test_mistakes_are_named(template, talk, message):
    with pytest.raises(ValueError, match=message):
        answers.split(of(template), talk)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Hi", [{"role": "user", "content": "Hi"}]),
        (
            [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        ([USER | {"name": None}], [USER]),
    ],
)
def test_messages_in_several_forms(value, expected):
    assert messages.of(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "int and no list of messages"),
        (["a"], "message 0 is str and no object"),
        ([USER, {"value": "a"}], "message 1 has no role; each has role and content"),
        ([USER | {"content": 3}], "message 0 has content of the type int"),
    ],
)
def test_what_is_no_message(value, message):
    with pytest.raises(ValueError, match=message):
        messages.of(value)
