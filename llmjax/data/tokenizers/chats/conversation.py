"""The text of a conversation, by a tokenizer's chat templates."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmjax.data.tokenizers.chats import rendering

# names of a message's reasoning; templates read the first, gpt-oss's the second
REASONING = ("reasoning_content", "thinking", "reasoning")


def render(
    templates: Mapping[str, str],
    specials: Mapping[str, str],
    messages: Sequence[Any],
    *,
    template: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The text of a conversation, as transformers' `apply_chat_template` gives it.

    Args:
      templates: name -> jinja, with the variables and filters that transformers
        defines.
      specials: "bos", "eos"… -> the token that the template calls `bos_token`….
      messages: dicts with `role` and `content`; keys that are None count as absent.
      template: name of one of the templates; None: "tool_use" where there are tools
        and there is one of that name, else "default".
      tools: JSON schemas of functions that the model may call.
      documents: each with `title` and `text`.
      add_generation_prompt: end where the model is to answer.
      variables: what else the template reads, e.g. `enable_thinking`.

    Raises:
      ValueError: no such template, one that is broken, refuses these messages or is
        beyond the bounds of `rendering`; or messages that are none.
    """
    name = _choose(templates, template, tools is not None)
    names: dict[str, Any] = {f"{kind}_token": token for kind, token in specials.items()}
    names |= variables
    names |= {
        "messages": [_message(i, message) for i, message in enumerate(messages)],
        "tools": tools,
        "documents": documents,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return rendering.render(templates[name], names)
    except ValueError as e:
        raise ValueError(f"the chat template {name!r} fails: {e}") from e


def _choose(templates: Mapping[str, str], name: str | None, tools: bool) -> str:
    """The name of the template to take."""
    if not templates:
        raise ValueError("this tokenizer has no chat template; write the text out")
    if name is None:
        name = "tool_use" if tools and "tool_use" in templates else "default"
    if name not in templates:
        raise ValueError(
            f"this tokenizer has no chat template {name!r}; template= takes one of "
            f"{', '.join(map(repr, templates))}"
        )
    return name


def _message(number: int, message: Any) -> dict[str, Any]:
    """A message without what is None, its reasoning under each of its names."""
    if not isinstance(message, Mapping):
        raise ValueError(
            f"message {number} is a {type(message).__name__}; accepted: a dict with "
            "role and content"
        )
    present = {key: value for key, value in message.items() if value is not None}
    reasoning = next((present[key] for key in REASONING if key in present), None)
    if reasoning is None:
        return present
    return {"thinking": reasoning, **present, "reasoning_content": reasoning}
