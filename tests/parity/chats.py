"""Conversations and tokenizers against transformers, live: `bash launch/parity.sh`.

`python -m tests.parity.chats --write` writes tests/goldens/chats.json anew, what
transformers makes of every template of tests/data/fixtures/templates and conversation.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llmjax import hub
from llmjax.data.tokenizers.chats import conversation

TESTS = Path(__file__).parents[1]
TEMPLATES = TESTS / "data" / "fixtures" / "templates"
GOLDENS = TESTS / "goldens" / "chats.json"
SPECIALS = {"bos": "<s>", "eos": "</s>"}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "wetter",
            "description": "Das Wetter in <Ort>; grün & blau",
            "parameters": {
                "type": "object",
                "properties": {"ort": {"type": "string"}, "tage": {"type": "integer"}},
                "required": ["ort"],
            },
        },
    }
]
USER = {"role": "user", "content": "Wie wird's in 東京? 🙂"}
SYSTEM = {"role": "system", "content": "Be brief. /no_think"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "functions.wetter:0",
            "type": "function",
            "function": {"name": "wetter", "arguments": {"tage": 3, "ort": "東京"}},
        }
    ],
}
ANSWER = {"role": "tool", "tool_call_id": "functions.wetter:0", "content": "25 °C"}
THOUGHT = {"role": "assistant", "reasoning": "\nhm\n", "content": "\n\nWarm."}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "question": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "answer": {
        "messages": [USER, {"role": "assistant", "content": "Warm."}],
        "add_generation_prompt": False,
    },
    "turns": {"messages": [SYSTEM, USER, THOUGHT, {**USER, "content": "And <b>?"}]},
    "thought": {"messages": [USER, THOUGHT], "add_generation_prompt": False},
    "inline": {
        "messages": [
            USER,
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nWarm."},
            USER,
        ]
    },
    "quick": {"messages": [USER], "enable_thinking": False},
    "parts": {"messages": [{**USER, "content": [{"type": "text", "text": "Nun?"}]}]},
    "tools": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "no tools": {"messages": [USER], "tools": []},
    "call": {"messages": [SYSTEM, USER, CALL, ANSWER], "tools": TOOLS},
    "documents": {
        "messages": [USER],
        "documents": [{"title": "A", "text": "warm"}],
    },
    "date": {"messages": [USER], "date_string": "1 Jan 2030", "custom_tools": TOOLS},
}


def cases() -> Iterator[tuple[str, str, str]]:
    """Name, template's file, conversation's name."""
    for file in sorted(TEMPLATES.glob("*.jinja")):
        for name in CONVERSATIONS:
            yield f"{file.stem}/{name}", file.read_text(), name


def ours(template: str, name: str) -> str | None:
    """Our text; None where the template refuses or can't take the conversation."""
    options = {"add_generation_prompt": True, **CONVERSATIONS[name]}
    try:
        return conversation.render({"default": template}, SPECIALS, **options)
    except ValueError:
        return None


def theirs(template: str, name: str) -> str | None:
    """transformers' text; None where it raises."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer("<s>", "</s>"),
        bos_token="<s>",
        eos_token="</s>",
    )
    options = {"add_generation_prompt": True, **CONVERSATIONS[name]}
    messages = options.pop("messages")
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, **options
        )
    except Exception:  # a template may raise any
        return None


# --- tokenizers ----------------------------------------------------------------------


def byte_tokenizer(*specials: str) -> tokenizers.Tokenizer:
    """Bytes, and `specials` behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(specials))
    return inner


def token(content: str, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, "special": special, **flags}


FILES: dict[str, dict[str, Any]] = {
    "tokens that only the config adds": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "256": token("<s>"),
                "258": token("<|im_end|>"),
                "259": token("<think>", special=False),
            },
            "bos_token": "<s>",
            "eos_token": "<|im_end|>",
            "chat_template": "{{ eos_token }}",
        },
    },
    "older files": {
        "added_tokens.json": {"[PAD]": 258},
        "special_tokens_map.json": {
            "eos_token": "</s>",
            "pad_token": {"content": "[PAD]", "lstrip": False},
        },
        "tokenizer_config.json": {"eos_token": None, "bos_token": "<s>"},
    },
    "templates": {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": [
                {"name": "default", "template": "d{{ bos_token }}"},
                {"name": "tool_use", "template": "t{{ tools | length }}"},
            ],
        },
    },
    "templates in files": {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": "not this one",
        },
        "chat_template.jinja": "own",
        "additional_chat_templates/tool_use.jinja": "t",
    },
}
TEXT = "a<think>b</s> é<|im_end|>[PAD]"


def tokenizer_problem(name: str, folder: Path) -> str | None:
    """How ours differs from transformers' on files of this kind."""
    import transformers

    byte_tokenizer("<s>", "</s>").save(str(folder / "tokenizer.json"))
    for file, content in FILES[name].items():
        (folder / file).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / file).write_text(text)
    own = hub.tokenizer(folder)
    other = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ids = other(TEXT, add_special_tokens=False)["input_ids"]
    pairs: dict[str, tuple[Any, Any]] = {
        "ids": (own.encode(TEXT, parse_specials=True).tolist(), ids),
        "size": (own.vocab_size, len(other)),
        "text": (own.decode(ids), other.decode(ids, skip_special_tokens=True)),
        "all": (own.decode(ids, special_tokens=True), other.decode(ids)),
        "beyond": (own.decode([97, 640]), other.decode([97, 640])),
        "eos": (own.eos_id, other.eos_token_id),
    }
    if other.pad_token_id is not None:
        pairs["pad"] = own.pad_id, other.pad_token_id
    if other.chat_template is not None:
        for tools in (None, []):
            own_text = own.apply_chat_template([USER], tools=tools)
            other_text = other.apply_chat_template(
                [USER], tools=tools, tokenize=False, add_generation_prompt=True
            )
            pairs[f"chat, tools={tools}"] = own_text, other_text
    wrong = [f"{key}: {a!r} for {b!r}" for key, (a, b) in pairs.items() if a != b]
    return "; ".join(wrong) or None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the goldens anew")
    options = parser.parse_args(arguments)
    texts = {name: theirs(*case) for name, *case in cases()}
    if options.write:
        GOLDENS.write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n")
    wrong = {name: case for name, *case in cases() if ours(*case) != texts[name]}
    for name, case in wrong.items():
        print(f"chats: {name}: {ours(*case)!r} for {texts[name]!r}")
    for name in FILES:
        with tempfile.TemporaryDirectory() as folder:
            if problem := tokenizer_problem(name, Path(folder)):
                wrong[name] = []
                print(f"chats: {name}: {problem}")
    count = len(texts) + len(FILES)
    print(f"chats: {count - len(wrong)} of {count} are transformers'")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
