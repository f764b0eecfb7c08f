"""One choice of an answer as it is written: tokens in, pieces of text out."""

import dataclasses
from collections.abc import Sequence

from llmjax.data.tokenizers.streaming import StopStrings
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.infer.engine.request import Event, Reason, Token


@dataclasses.dataclass(frozen=True)
class Spelled:
    """A token of a piece.

    Attributes:
      token: as it was drawn.
      offset: in the choice's text, in characters.
    """

    token: Token
    offset: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a choice has new.

    Attributes:
      text: that surely stays.
      tokens: those whose text begins in it.
      finished: why the choice ended; None: it goes on.
    """

    text: str
    tokens: tuple[Spelled, ...]
    finished: Reason | None


class Choice:
    """Makes pieces of an engine's events.

    Attributes:
      tokens: how many were drawn.
      cached: tokens of the prompt that were known.
      finished: why it ended; None: it goes on.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], goes_on: bool):
        """
        Args:
          tokenizer: of the model.
          stops: strings that end the text, and are left out.
          goes_on: whether it continues a text.
        """
        self._stream = tokenizer.stream(goes_on=goes_on)
        self._stops = StopStrings(stops)
        self._held: list[Spelled] = []
        self._read = self._passed = 0  # characters
        self.tokens, self.cached = 0, 0
        self.finished: Reason | None = None

    def add(self, event: Event) -> Piece:
        """What of an event is sure to stay."""
        self.cached = max(self.cached, event.cached)
        text = ""
        for token in event.tokens:
            self.tokens += 1
            self._held.append(Spelled(token, self._read))
            new = self._stream.add(token.id)
            self._read += len(new)
            text += self._stops.add(new)
            if self._stops.stopped:
                return self._piece(text, "stop")
        if event.finished is not None:
            text += self._stops.add(self._stream.end())
            if not self._stops.stopped:
                text += self._stops.end()
        return self._piece(text, event.finished)

    def _piece(self, text: str, finished: Reason | None) -> Piece:
        self._passed += len(text)
        self.finished = finished
        sure = [s for s in self._held if s.offset < self._passed]
        if finished is not None and not self._stops.stopped:
            sure = self._held
        self._held = self._held[len(sure) :]
        return Piece(text, tuple(sure), finished)
