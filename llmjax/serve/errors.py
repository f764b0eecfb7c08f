"""What is answered where a request can't be: OpenAI's form, with the field's name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

# in a `loc` of pydantic's: which variant of a union it tried
_VARIANTS = {"str", "int", "float", "bool", "body", "constrained-str"}
FIELD = "field"  # in the context of an error that is about several fields


class RefusedError(Exception):
    """A request that is not served.

    Attributes:
      status: of HTTP.
      message: what came, what is accepted, the remedy.
      param: the field; None: it is not about one.
      code: for programs.
      after: seconds until a second try may do.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code, self.after = code, after

    def body(self) -> dict[str, Any]:
        """In OpenAI's form."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The whole answer."""
        headers = {} if self.after is None else {"Retry-After": str(self.after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def of_validation(
    errors: Sequence[Mapping[str, Any]], fields: Mapping[str, Sequence[str]]
) -> RefusedError:
    """What pydantic found, as one refusal: of the first field that is wrong.

    Args:
      errors: of a `RequestValidationError`.
      fields: "" -> the names that a body has, and name -> those of an object in it.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        at = first["loc"][-1] if isinstance(first["loc"][-1], int) else 0
        return RefusedError(400, f"the body is no JSON: {reason}, at character {at}")
    # of a union, the variant that fits best says what is wrong
    first = max(_of_one_field(errors), key=lambda error: len(_path(error).split(".")))
    path = _path(first)
    if field := first.get("ctx", {}).get(FIELD):
        return RefusedError(400, first["msg"], field)
    if not path:
        return RefusedError(
            400, f"the body is {_short(first['input'])}; it must be a JSON object"
        )
    if first["type"] == "missing":
        return RefusedError(400, f"{path} is missing; add it", path)
    if first["type"] == "extra_forbidden":
        parent, _, name = path.rpartition(".")
        known = fields.get(parent.partition(".")[0], ())
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        remedy = f"did you mean {near[0]}?" if near else "leave it out"
        return RefusedError(
            400, f"{path} is not honoured by this server; {remedy}", path
        )
    same = [error for error in errors if _path(error) == path]
    reasons = dict.fromkeys(_reason(error) for error in same)
    value = _short(first["input"])
    return RefusedError(400, f"{path} is {value}: {' or '.join(reasons)}", path)


def _of_one_field(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors of the first field that has some."""
    name = _path(errors[0]).partition(".")[0]
    return [error for error in errors if _path(error).partition(".")[0] == name]


def _path(error: Mapping[str, Any]) -> str:
    """The field that is wrong, as "messages.0.content"."""
    parts = [str(part) for part in error["loc"] if part not in _VARIANTS]
    return ".".join(part for part in parts if "[" not in part)


def _reason(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]}…"
