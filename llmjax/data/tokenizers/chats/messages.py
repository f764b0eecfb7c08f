"""Messages of a conversation as files have them, in one form: role and content."""

import json
from collections.abc import Mapping
from typing import Any

from llmjax.data.tokenizers.chats.conversation import REASONING

# roles of ShareGPT's turns, `from` and `value`, and their names elsewhere
SHARE_GPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
}
Message = dict[str, Any]


def of(value: Any) -> list[Message]:
    """The messages of a row: dicts of `role` and `content`, or of `from` and `value`.

    A text is one message of the user; a mapping one message. Keys that are None are
    left out.

    Raises:
      ValueError: says what it is instead; "it is …".
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{type(value).__name__} and no list of messages")
    if not value:
        raise ValueError("a list without a message")
    return [_message(k, message) for k, message in enumerate(value)]


def from_cell(value: Any) -> Any:
    """The JSON in a text that has the form of a list or an object, as in a .csv; else
    the value."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _message(number: int, message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(
            f"a list whose message {number} is {type(message).__name__} and no object "
            "with role and content"
        )
    own = {str(key): value for key, value in message.items() if value is not None}
    if "from" in own and "role" not in own:
        role, content = own.pop("from"), own.pop("value", None)
        own = {"role": SHARE_GPT.get(role, role), "content": content, **own}
    role = own.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError(
            f"a list whose message {number} has no role; each has role and content, or "
            "from and value"
        )
    content = own.get("content")
    if not isinstance(content, str | list | None):
        raise ValueError(
            f"a list whose message {number} has content of the type "
            f"{type(content).__name__}; accepted: a text"
        )
    return own


def is_empty(message: Mapping[str, Any]) -> bool:
    """Whether a message says, thinks and calls nothing."""
    content = message.get("content")
    said = content.strip() if isinstance(content, str) else content
    thought = any(message.get(name) for name in REASONING)
    return not (said or thought or message.get("tool_calls"))
