"""Chat templates: the text of a conversation, in a sandbox."""

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import sandbox


def render(
    template: str | None,
    specials: Mapping[str, str],
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The text of a conversation.

    Args:
      template: jinja, with the variables and filters that transformers defines.
      specials: "bos", "eos"… -> the token that the template calls `bos_token`….
      messages: each with `role` and `content`.
      add_generation_prompt: end where the model is to answer.
      variables: what else the template reads, e.g. `tools`.

    Raises:
      ValueError: no template, one that is broken or refuses these messages.
    """
    if template is None:
        raise ValueError("this tokenizer has no chat template; write the text out")
    names: dict[str, Any] = {f"{name}_token": token for name, token in specials.items()}
    names |= variables
    names |= {"messages": messages, "add_generation_prompt": add_generation_prompt}
    try:
        return _environment().from_string(template).render(names)
    except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError) as e:
        raise ValueError(f"the chat template fails: {e}") from e


@functools.cache
def _environment() -> jinja2.Environment:
    """Jinja in its sandbox, set up for templates as in transformers."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
