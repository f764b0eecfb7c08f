"""The model that is served, and what a body asks of it: checked before an engine is."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmjax.config import ModelConfig
from llmjax.data.tokenizers.chats.prompts import encode_conversation
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.infer.constraints import Form, Forms, choice
from llmjax.infer.engine.penalties import Penalties
from llmjax.infer.engine.request import Request
from llmjax.infer.engine.room import Room
from llmjax.infer.sampling import chosen
from llmjax.serve.bodies import ChatBody, CompletionBody, Message, Sampled
from llmjax.serve.errors import RefusedError


@dataclasses.dataclass(frozen=True)
class Served:
    """A model with a name.

    Attributes:
      name: that requests call it by.
      cfg, tokenizer: its own.
      room: of its engine.
      encode: text of a prompt to ids, with the specials before it.
      stop_tokens: that end a text.
      sampling: fields of `Sampling` where a request says nothing.
      max_new_tokens: of an answer where a request says nothing; None: all there is room
        for.
      forms: made where a request asks for a form.
    """

    name: str
    cfg: ModelConfig
    tokenizer: Tokenizer
    room: Room
    encode: Callable[[str], np.ndarray]
    stop_tokens: tuple[int, ...]
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_new_tokens: int | None = None
    forms: Callable[[], Forms] | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a body asks of an engine: `n` texts of each prompt.

    Attributes:
      requests: in the order of the answer's choices.
      prompts: number of tokens of each prompt.
      n: texts of each.
    """

    requests: tuple[Request, ...]
    prompts: tuple[int, ...]
    n: int


def completion(served: Served, body: CompletionBody) -> Asked:
    """What a body of /v1/completions asks.

    Raises:
      RefusedError: with the field's name.
    """
    check_name(served, body.model)
    prompts = [_prompt(served, prompt) for prompt in body.prompts]
    if not prompts:
        raise RefusedError(400, "prompt is empty; give at least one", "prompt")
    most = [body.max_tokens] * len(prompts)
    top = body.logprobs is not None and body.logprobs > 0
    return _asked(served, body, "prompt", prompts, most, top)


def chat(served: Served, body: ChatBody) -> Asked:
    """What a body of /v1/chat/completions asks.

    Raises:
      RefusedError: with the field's name.
    """
    check_name(served, body.model)
    prompt = conversation(served, body.messages)
    left = max(1, served.room.max_length - len(prompt))
    most = body.max_completion_tokens or body.max_tokens
    if most is None:
        most = min(left, served.max_new_tokens or left)
    top = bool(body.top_logprobs)
    return _asked(served, body, "messages", [prompt], [most], top)


def conversation(served: Served, messages: Sequence[Message]) -> np.ndarray:
    """Ids of a conversation that the model is to answer.

    Raises:
      RefusedError: there is no chat template, or it fails.
    """
    told = [{"role": m.role, "content": m.text} for m in messages]
    try:
        return encode_conversation(served.tokenizer, told)
    except ValueError as e:
        raise RefusedError(400, f"messages: {e}", "messages") from e


def check_name(served: Served, name: str) -> None:
    """Raises RefusedError where a request asks for another model."""
    if name != served.name:
        raise RefusedError(
            404,
            f"model is {name!r}, which is not served here; ask for {served.name!r}",
            "model",
            "model_not_found",
        )


def _prompt(served: Served, prompt: str | list[int]) -> np.ndarray:
    if isinstance(prompt, str):
        try:
            ids = served.encode(prompt)
        except ValueError as e:  # of a run whose prompts have a form of their own
            raise RefusedError(400, f"prompt: {e}", "prompt") from e
        if not len(ids):
            raise RefusedError(400, "prompt is empty, and so are its ids", "prompt")
        return ids
    if not prompt:
        raise RefusedError(400, "prompt has a list of no ids; give one", "prompt")
    wrong = [i for i in prompt if not 0 <= i < served.cfg.vocab_size]
    if wrong:
        raise RefusedError(
            400,
            f"prompt has the id {wrong[0]}, outside the vocabulary of "
            f"{served.cfg.vocab_size}",
            "prompt",
        )
    return np.array(prompt, np.int32)


def _asked(
    served: Served,
    body: Sampled,
    field: str,
    prompts: Sequence[np.ndarray],
    most: Sequence[int],
    top: bool,
) -> Asked:
    for prompt, new in zip(prompts, most, strict=True):
        _check_length(served, field, len(prompt), new)
    given = {key: getattr(body, key) for key in ("temperature", "top_p", "min_p")}
    try:
        sampling = chosen(served.sampling, given | {"top_k": body.top_k or None})
    except ValueError as e:
        raise RefusedError(400, str(e), str(e).partition(" ")[0]) from e
    if body.top_k == 0:
        sampling = dataclasses.replace(sampling, top_k=None)
    weighs = penalties(served, body)
    seed = int.from_bytes(os.urandom(4)) if body.seed is None else body.seed % 2**32
    form = form_of(body)
    requests = [
        Request(
            prompt,
            new,
            sampling,
            served.stop_tokens,
            seed=seed,
            number=number,
            penalties=weighs,
            constraint=None if form is None else _constraint(served, *form),
            top=top,
        )
        for prompt, new in zip(prompts, most, strict=True)
        for number in range(body.n)
    ]
    return Asked(tuple(requests), tuple(map(len, prompts)), body.n)


def _check_length(served: Served, field: str, length: int, new: int) -> None:
    room = served.room.max_length
    if length >= room:
        raise RefusedError(
            400,
            f"{field} has {length} tokens, and a text may have {room} with its "
            f"continuation; shorten it to {room - 1} at most",
            field,
            "context_length_exceeded",
        )
    if length + new > room:
        raise RefusedError(
            400,
            f"max_tokens is {new}: behind the {length} tokens of {field} there is room "
            f"for {room - length}; ask for fewer, or shorten {field}",
            "max_tokens",
            "context_length_exceeded",
        )


def penalties(served: Served, body: Sampled) -> Penalties:
    """The penalties and the bias of a body.

    Raises:
      RefusedError: a bias of what is no token.
    """
    bias = []
    for key, value in body.logit_bias.items():
        if not key.isdecimal() or int(key) >= served.cfg.vocab_size:
            raise RefusedError(
                400,
                f"logit_bias has the key {key!r}; accepted: an id of a token, below "
                f"{served.cfg.vocab_size}",
                "logit_bias",
            )
        bias.append((int(key), float(value)))
    return Penalties(
        float(body.repetition_penalty),
        float(body.frequency_penalty),
        float(body.presence_penalty),
        tuple(bias),
    )


def form_of(body: Sampled) -> tuple[str, Form] | None:
    """(field that asks for it, form) of a text; None: any."""
    if (asked := body.response_format) is not None:
        if asked.type == "json_object":
            return "response_format", _json({"type": "object"})
        if asked.json_schema is not None:
            return "response_format.json_schema.schema", _json(
                asked.json_schema.schema_
            )
    if (own := body.structured_outputs) is None:
        return None
    if own.regex is not None:
        return "structured_outputs.regex", Form("regex", own.regex)
    if own.choice is not None:
        return "structured_outputs.choice", choice(own.choice)
    if own.grammar is not None:
        return "structured_outputs.grammar", Form("lark", own.grammar)
    return "structured_outputs.json", _json(own.json_)


def _json(schema: Any) -> Form:
    return Form("json_schema", json.dumps(schema))


def _constraint(served: Served, field: str, form: Form) -> Any:
    try:
        if served.forms is None:
            raise ModuleNotFoundError("this server was started without forms of texts")
        return served.forms().constraint(form)
    except (ValueError, ModuleNotFoundError) as e:
        raise RefusedError(400, f"{field}: {e}", field) from e
