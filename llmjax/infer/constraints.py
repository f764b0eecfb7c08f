"""Texts of a given form: one of some choices, a regular expression, JSON, a grammar.

The library `llguidance` (extra `structure`) says which tokens may come next; what it
allows spells every text of the form, and nothing else.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from llmjax.data.tokenizers.tokenizer import Tokenizer

BLANKS = 8  # that JSON may have in a row: a model could write them for ever


@dataclasses.dataclass(frozen=True)
class Form:
    """What a text must look like.

    Attributes:
      kind: "json_schema" (a JSON Schema as text), "regex" (of the whole text), "choice"
        (a JSON list of texts) or "lark" (a grammar in Lark's notation, with `start`).
      text: of that kind.
    """

    kind: Literal["json_schema", "regex", "choice", "lark"]
    text: str


def choice(texts: Sequence[str]) -> Form:
    """One of these texts."""
    return Form("choice", json.dumps([*texts]))


def json_schema(schema: Any) -> Form:
    """JSON that a schema accepts; `True` is any JSON."""
    return Form("json_schema", json.dumps(schema))


class Forms:
    """The forms of texts in one tokenizer's tokens.

    Raises:
      ModuleNotFoundError: llguidance is not installed.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, stop_tokens: Sequence[int]
    ):
        """
        Args:
          tokenizer: of the model.
          vocab_size: of the model; it may have more tokens than the tokenizer.
          stop_tokens: those that end a text.
        """
        self._library = _library()
        ends = [i for i in stop_tokens if i < tokenizer.vocab_size]
        self._tokens = self._library.LLTokenizer(
            tokenizer.json,
            n_vocab=max(vocab_size, tokenizer.vocab_size),
            eos_token=ends or [tokenizer.eos_id],
        )
        self._vocab_size = vocab_size

    def constraint(self, form: Form) -> "Grammar":
        """What may come next in one text of this form.

        Raises:
          ValueError: no text has this form, or it can't be read.
        """
        compiled = self._grammar(form)
        matcher = self._library.LLMatcher(self._tokens, compiled, log_level=0)
        if matcher.is_error():
            raise ValueError(
                f"{form.kind} {_short(form.text)}: {matcher.get_error().strip()}"
            )
        return Grammar(matcher, self._vocab_size)

    def _grammar(self, form: Form) -> str:
        matcher = self._library.LLMatcher
        if form.kind == "regex":
            return str(matcher.grammar_from_regex(form.text))
        if form.kind == "lark":
            return str(matcher.grammar_from_lark(form.text))
        value = _read(form)
        if form.kind == "json_schema":
            if value is False:
                raise ValueError("json_schema 'false' accepts nothing")
            value = {} if value is True else value
            if not isinstance(value, dict):
                raise ValueError(f"json_schema {_short(form.text)} is no object")
            blanks = {"whitespace_pattern": rf"[ \n\r\t]{{0,{BLANKS}}}"}
            return str(matcher.grammar_from_json_schema(value, overrides=blanks))
        if not isinstance(value, list) or not value:
            raise ValueError(f"choice {_short(form.text)} is no list of texts")
        for text in value:
            if not isinstance(text, str) or not text:
                raise ValueError(f"choice {text!r} is no text, or an empty one")
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
        return str(matcher.grammar_from_lark(f"start: {texts}"))


class Grammar:
    """Which tokens may come next in one text; a `Constraint` of an engine."""

    def __init__(self, matcher: Any, vocab_size: int):
        """`Forms.constraint` makes it."""
        self._matcher, self._words = matcher, -(-vocab_size // 32)
        self._spare = 32 * self._words - vocab_size

    @property
    def complete(self) -> bool:
        """Whether the text so far has the form."""
        return bool(self._matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> np.ndarray:
        """Uint32 [V / 32, rounded up]: bit i of word w is for token 32 w + i."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        mask = mask[: self._words].copy()
        if self._spare:
            mask[-1] &= np.uint32(0xFFFFFFFF >> self._spare)
        return mask

    def advance(self, token: int) -> None:
        """Tells it the token that was drawn."""
        self._matcher.consume_token(token)


def _read(form: Form) -> Any:
    try:
        return json.loads(form.text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{form.kind} {_short(form.text)} is no JSON: {e}") from e


def _short(text: str) -> str:
    return repr(text if len(text) < 80 else f"{text[:76]}…")


def _library() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "texts of a given form need llguidance: pip install 'llmjax[structure]'"
        ) from e
    return llguidance
