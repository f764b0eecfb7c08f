"""Answers in the form of OpenAI's API, whole and in pieces."""

import dataclasses
import time
import uuid
from collections.abc import Sequence
from typing import Any

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.infer.engine.request import Token
from llmjax.serve.served import Asked
from llmjax.serve.texts import Choice, Piece, Spelled


@dataclasses.dataclass
class Form:
    """How a kind of completion is written.

    Attributes:
      chat: a conversation's answer, or a text's continuation.
      model: its name.
      tokenizer: the model's.
      top: likely tokens that are told of each place; None: no log-probabilities.
      id, created: of the answer.
    """

    chat: bool
    model: str
    tokenizer: Tokenizer
    top: int | None
    id: str = ""
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def __post_init__(self):
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, asked: Asked, pieces: Sequence[Sequence[Piece]], usage: Any) -> Any:
        """The whole answer, of the pieces of each choice."""
        choices = []
        for index, own in enumerate(pieces):
            text = "".join(piece.text for piece in own)
            tokens = [token for piece in own for token in piece.tokens]
            content: dict[str, Any] = {"text": text}
            if self.chat:
                message = {"role": "assistant", "content": text, "refusal": None}
                content = {"message": message}
            choices.append(
                {
                    "index": index,
                    **content,
                    "logprobs": self._logprobs(tokens),
                    "finish_reason": own[-1].finished,
                }
            )
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": usage}

    def opening(self, index: int) -> Any:
        """The first piece of a choice of a conversation: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk({"index": index, "delta": delta, "finish_reason": None})

    def piece(self, index: int, piece: Piece) -> Any:
        """One piece of a choice."""
        delta = {"content": piece.text} if piece.text else {}
        content: Any = {"delta": delta} if self.chat else {"text": piece.text}
        return self._chunk(
            {
                "index": index,
                **content,
                "logprobs": self._logprobs(piece.tokens) if piece.tokens else None,
                "finish_reason": piece.finished,
            }
        )

    def last(self, usage: Any) -> Any:
        """The piece that tells of the usage."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._head(kind) | {"choices": [], "usage": usage}

    def _chunk(self, choice: Any) -> Any:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._head(kind) | {"choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _logprobs(self, tokens: Sequence[Spelled]) -> Any:
        if self.top is None:
            return None
        if not self.chat:
            return self._plain_logprobs(tokens)
        return {
            "content": [
                self._named(s.token.id, s.token.log_p)
                | {"top_logprobs": [self._named(i, p) for i, p in self._top(s.token)]}
                for s in tokens
            ],
            "refusal": None,
        }

    def _plain_logprobs(self, tokens: Sequence[Spelled]) -> Any:
        return {
            "tokens": [self._key(s.token.id) for s in tokens],
            "token_logprobs": [s.token.log_p for s in tokens],
            # the one that was drawn too, as OpenAI has it
            "top_logprobs": [
                {self._key(s.token.id): s.token.log_p}
                | {self._key(i): p for i, p in self._top(s.token)}
                for s in tokens
            ]
            if self.top
            else None,
            "text_offset": [s.offset for s in tokens],
        }

    def _top(self, token: Token) -> Sequence[tuple[int, float]]:
        return token.top[: self.top]

    def _key(self, id: int) -> str:
        """As OpenAI has it: a part of a letter is told by its bytes."""
        try:
            return self.tokenizer.spelling(id).decode()
        except UnicodeDecodeError:
            spelled = self.tokenizer.spelling(id)
            return "bytes:" + "".join(f"\\x{b:02x}" for b in spelled)

    def _text(self, id: int) -> str:
        return self.tokenizer.spelling(id).decode("utf-8", errors="replace")

    def _named(self, id: int, log_p: float) -> dict[str, Any]:
        spelled = self.tokenizer.spelling(id)
        return {"token": self._text(id), "logprob": log_p, "bytes": [*spelled]}


def usage(asked: Asked, choices: Sequence[Choice]) -> dict[str, Any]:
    """The tokens of an answer; a prompt counts once, however many choices it has."""
    prompt, drawn = sum(asked.prompts), sum(choice.tokens for choice in choices)
    cached = sum(choice.cached for choice in choices[:: asked.n])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
