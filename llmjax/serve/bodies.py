"""The bodies of requests. A field that is not here is refused, never left out in
silence; null, and a value that asks for nothing, count as absent."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llmjax.serve.errors import FIELD

MAX_TOP = 20
# fields of OpenAI's that are not honoured, with the values that ask for nothing
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "store": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
}


class Body(BaseModel):
    """Typed as JSON is: "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: item
            for name, item in value.items()
            if item is not None
            and (name in cls.model_fields or not _asks_nothing(name, item))
        }


def _disagree(field: str, why: str) -> PydanticCustomError:
    message = f"{field} is given, and {why}"
    return PydanticCustomError(
        "disagree", "{message}", {FIELD: field, "message": message}
    )


def _asks_nothing(name: str, value: Any) -> bool:
    neutral = NEUTRAL.get(name, ())
    return any(value == n and type(value) is type(n) for n in neutral)


class StreamOptions(Body):
    """Whether a last piece tells of the usage."""

    include_usage: bool = False


class JsonSchema(Body):
    """A schema and its name, which says nothing to a model."""

    name: str = "schema"
    description: str | None = None
    schema_: Any = Field(None, alias="schema")
    strict: bool = True


class ResponseFormat(Body):
    """Any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> "ResponseFormat":
        schema = None if self.json_schema is None else self.json_schema.schema_
        if (self.type == "json_schema") != (schema is not None):
            raise ValueError(
                "json_schema.schema belongs to type 'json_schema', and to it alone"
            )
        return self


class StructuredOutputs(Body):
    """An extension: exactly one of its fields.

    Attributes:
      regex: of the whole text.
      choice: texts, of which it is one.
      grammar: in Lark's notation, with `start`.
      json_: a JSON schema; as a field, "json".
    """

    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None
    json_: Any = Field(None, alias="json")

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one of regex, choice, grammar and json is given")
        return self


Text = Annotated[str, Field(min_length=1)]


class Sampled(Body):
    """What both kinds of completions take."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stop: Text | Annotated[list[Text], Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = {}
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _agree(self) -> "Sampled":
        if self.stream_options is not None and not self.stream:
            raise _disagree("stream_options", "stream is not true")
        if self.response_format is not None and self.structured_outputs is not None:
            raise _disagree("structured_outputs", "so is response_format")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(Sampled):
    """Of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None

    @property
    def prompts(self) -> list[Any]:
        """Texts, or lists of ids."""
        if isinstance(self.prompt, str) or isinstance(next(iter(self.prompt), ""), int):
            return [self.prompt]
        return [*self.prompt]


class Part(Body):
    """Of a message; there are none but texts."""

    type: Literal["text"]
    text: str


class Message(Body):
    """Of a conversation; parts of text are joined."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]

    @field_validator("content")
    @classmethod
    def _not_empty(cls, content: Any) -> Any:
        if content == []:
            raise ValueError("it must have at least one part")
        return content

    @property
    def text(self) -> str:
        """All of it."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatBody(Sampled):
    """Of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None

    @model_validator(mode="after")
    def _logprobs(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise _disagree("top_logprobs", "logprobs is not true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _disagree("max_tokens", "so is max_completion_tokens")
        return self


class TokenizeBody(Body):
    """Of POST /tokenize: a prompt or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "TokenizeBody":
        if self.prompt is None and self.messages is None:
            message = "prompt is missing, and so is messages; add one"
            raise PydanticCustomError(
                "none", "{message}", {FIELD: "prompt", "message": message}
            )
        if self.prompt is not None and self.messages is not None:
            raise _disagree("messages", "so is prompt")
        return self


def fields_of(body: type[Body]) -> dict[str, list[str]]:
    """ "" -> the fields of a body, and name -> those of an object in it."""
    names = {"": [*body.model_fields]}
    nested: dict[str, type[Body]] = {
        "stream_options": StreamOptions,
        "response_format": ResponseFormat,
        "messages": Message,
    }
    names |= {name: [*kind.model_fields] for name, kind in nested.items()}
    names["structured_outputs"] = ["regex", "choice", "grammar", "json"]
    return names
